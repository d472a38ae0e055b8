"""Files of keys: what is read from them, what is refused, and that none is shown."""

from pathlib import Path

import pytest

from boomerang_core.errors import SettingsError
from server.guard.keys import Keys
from server.guard.middleware import Guarding
from server.settings import read_settings
from tests.unit.guarding import ADMIN, API, OTHER, guarding, write

__all__ = ["guarding"]  # a fixture


def test_keys_are_read_and_not_shown(guarding: Guarding) -> None:
    assert guarding.api_keys is not None
    assert [guarding.api_keys.place(key) for key in (API, OTHER)] == [0, 1]
    for stranger in ("", ADMIN, API[:-1], f"{API}x", "# for the tests", "\udcff", "é" * 20):
        assert guarding.api_keys.place(stranger) is None
    assert API not in repr(guarding)
    assert API.encode() not in b"".join(guarding.api_keys.digests)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no key"),
        (["# only", " "], "holds no key"),
        ([API, "short"], "line 2"),
        (["two words 0123456789"], "line 1"),
        (["ключ-ключ-ключ-ключ"], "line 1"),
    ],
)
def test_a_bad_file_of_keys_is_refused_without_showing_it(
    tmp_path: Path, lines: list[str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        Keys.read(write(tmp_path / "keys", *lines))
    assert not any(line in str(refused.value) for line in lines if line.strip())


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the keys"):
        Keys.read(tmp_path / "nowhere")


def test_an_admin_key_is_no_api_key(tmp_path: Path) -> None:
    both = write(tmp_path / "keys", API)
    with pytest.raises(SettingsError, match="both"):
        Guarding.of(read_settings(api_keys_file=both, admin_keys_file=both))
    with pytest.raises(SettingsError, match="needs api_keys_file"):
        Guarding.of(read_settings(max_requests_per_key=3))
