"""Settings that are refused, in one line, and settings that are read from text."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core.errors import SettingsError
from server.cli import app
from server.serve_options import COMMON
from server.settings import Settings, read_settings
from server.vllm_options import VllmOptions


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_cert_file": "x"}, "tls_cert_file and tls_key_file go together"),
        ({"cors_origins": "example.com"}, "an origin is https://HOST"),
        ({"cors_origins": "https://one.example/path"}, "an origin is"),
        ({"max_body_bytes": "0"}, "max_body_bytes"),
        ({"max_choices": 0}, "max_choices"),
        ({"linger_seconds": "inf"}, "linger_seconds"),
        ({"served_names": "a,b@c"}, "served_names: a name is of letters"),
        ({"vllm_options": "{"}, "vllm_options: not a JSON object"),
        ({"vllm_options": "[1]"}, "vllm_options: not a JSON object"),
        ({"vllm_options": '{"enable_lora": true}'}, "vllm_options: enable_lora is not an option; "),
        ({"vllm_options": {"max_logprobs": -1}}, r"vllm_options\.max_logprobs: Input should be"),
        ({"vllm_options": {"scheduling_policy": "lifo"}}, r"vllm_options\.scheduling_policy: "),
        ({"vllm_options": {"chat_template": "gone.jinja"}}, "there is no file gone.jinja"),
        ({"vllm_options": {"enable_auto_tool_choice": True}}, "needs tool_call_parser"),
        (
            {"vllm_options": {"override_generation_config": {"temperature": "hot"}}},
            r"vllm_options\.override_generation_config\.temperature: ",
        ),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings(**settings)


def test_origins_come_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOMERANG_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    assert read_settings().cors_origins == ("https://a.example", "http://localhost:3000")
    assert read_settings(cors_origins="*").cors_origins == ("*",)


LINKS = {
    "SERVICE_HOST": "10.0.0.7",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "PORT": "tcp://10.0.0.7:8000",
    "PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.0.0.7",
}


@pytest.mark.parametrize("service", ["BOOMERANG", "BOOMERANG_LARGE"])
def test_what_kubernetes_tells_of_a_service_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """Of one that is called boomerang, or boomerang-large."""
    for name, value in LINKS.items():
        monkeypatch.setenv(f"{service}_{name}", value)
    assert read_settings().port == 8000
    assert read_settings(port=7).port == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVICE", "x"), ("HTTP_PORT", "80"), ("PORT", "http://x"), ("PORT_TCP", "80")],
)
def test_what_only_looks_so_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"BOOMERANG_{name}", value)
    with pytest.raises(SettingsError):
        read_settings()


def test_vllms_options_are_told_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    told = {"tool_call_parser": "hermes", "chat_template": str(template), "seed": 7}
    monkeypatch.setenv("BOOMERANG_VLLM_OPTIONS", json.dumps(told))
    options = read_settings().vllm_options
    assert options.for_engine() == {"seed": 7}
    assert options.for_app() == {
        "tool_call_parser": "hermes",
        "chat_template": str(template),
        "enable_auto_tool_choice": True,  # vLLM's app ignores the parser without it
    }
    assert read_settings(vllm_options="{}").vllm_options == VllmOptions()
    quiet = VllmOptions(tool_call_parser="hermes", enable_auto_tool_choice=False)
    assert not quiet.calls_tools


def test_options_of_serve_are_settings_with_their_words() -> None:
    """In help as they are; so they cannot say anything else."""
    result = CliRunner().invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    words = " ".join(result.output.split())  # lines are broken anywhere between two
    for name in COMMON:
        assert f"--{name}".replace("_", "-") in words
        assert str(Settings.model_fields[name].description) in words
    assert "Default: 2048." in words


def test_an_option_that_cannot_be_is_one_line() -> None:
    result = CliRunner().invoke(app, ["serve", "--log-level", "loud"])
    assert result.exit_code == 2
    assert result.output.startswith("error: log_level: Input should be 'debug'")
    assert result.output.count("\n") == 1
