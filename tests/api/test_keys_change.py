"""Keys that change under a running server, on a real socket; the log says whose a request was."""

import logging
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from boomerang_core.cli import family_folder
from boomerang_core.family import load_family
from server.guard import key_files
from server.logs import ACCESS, LIFE
from tests.api.test_guarded import ADMIN, API, serving

NEXT = "next-key-0123456789"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_change_under_a_running_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    caplog.set_level(logging.INFO, logger="boomerang")
    api, admin = tmp_path / "api", tmp_path / "admin"
    api.write_text(f"{API}  # team-one\n")
    admin.write_text(f"{ADMIN}\n")
    family = load_family(family_folder(Path("smollm2-135m")))
    with serving(family, api_keys_file=api, admin_keys_file=admin) as (url, _):

        def asks(key: str, path: str = "/v1/sizes") -> int:
            return httpx.get(f"{url}{path}", headers=bearer(key)).status_code

        assert (asks(API), asks(NEXT)) == (200, 401)
        (tmp_path / "new").write_text(f"{API}  # team-one\n{NEXT}  # team-one\n")
        (tmp_path / "new").rename(api)
        assert (asks(API), asks(NEXT)) == (200, 200), "both, while clients move to the new one"
        api.write_text("")
        assert (asks(API), asks(NEXT)) == (200, 200)
        api.write_text(NEXT)
        assert (asks(API), asks(NEXT)) == (401, 200)
        admin.write_text(API)
        assert asks(ADMIN, "/admin/memory-budget") == 401
        assert asks(API, "/admin/memory-budget") == 200

    named = [getattr(line, "key", None) for line in caplog.records if line.name == ACCESS]
    fingerprint, operator = (sha256(key.encode()).hexdigest()[:8] for key in (NEXT, API))
    one = "team-one"
    assert named == [one, None, one, one, one, one, None, fingerprint, None, operator]
    said = [line.levelname for line in caplog.records if line.name == LIFE]
    assert said == ["INFO", "ERROR", "INFO", "INFO"]
    assert not any(key in caplog.text for key in (API, NEXT, ADMIN))
