"""Settings that are refused, in one line, and settings that are read from text."""

from typing import Any

import pytest

from boomerang_core.errors import SettingsError
from server.settings import read_settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_cert_file": "x"}, "tls_cert_file and tls_key_file go together"),
        ({"cors_origins": "example.com"}, "an origin is https://HOST"),
        ({"cors_origins": "https://one.example/path"}, "an origin is"),
        ({"max_body_bytes": "0"}, "max_body_bytes"),
        ({"max_choices": 0}, "max_choices"),
        ({"linger_seconds": "inf"}, "linger_seconds"),
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
