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
