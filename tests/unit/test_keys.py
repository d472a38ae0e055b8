"""Files of keys: what is read from them, what is refused, and that none is shown."""

from hashlib import sha256
from pathlib import Path

import pytest

from boomerang_core.errors import SettingsError
from server.guard.keys import Keys
from server.guard.middleware import Guarding
from server.settings import read_settings
from tests.unit.guarding import ADMIN, API, OTHER, guarding, write

__all__ = ["guarding"]  # a fixture


def test_keys_are_read_and_not_shown(guarding: Guarding) -> None:
    keys = guarding.keys.now().api
    assert keys is not None
    assert [keys.find(key) for key in (API, OTHER)] == list(keys.all)
    for stranger in ("", ADMIN, API[:-1], f"{API}x", "# for the tests", "\udcff", "é" * 20):
        assert keys.find(stranger) is None
    assert API not in repr(guarding) + repr(keys)
    assert API.encode() not in b"".join(key.digest for key in keys.all)


def test_a_key_has_a_name(guarding: Guarding) -> None:
    """The one behind it; else the first digits of its digest, which any shell can tell."""
    keys = guarding.keys.now().api
    assert keys is not None
    assert [key.name for key in keys.all] == [sha256(API.encode()).hexdigest()[:8], "team-one"]


def test_keys_may_have_signs_of_a_name(tmp_path: Path) -> None:
    """Keys were allowed them before names were."""
    odd = ("name:0123456789abcdef", "0123456789abcdef#name", "0123456789abcdef:name")
    keys = Keys.read(write(tmp_path / "keys", *odd, f"{API} #x", f"{OTHER}\t#\ty", f"{API} # z"))
    assert all(keys.find(key) for key in (*odd, API, OTHER))
    assert [key.name for key in keys.all[3:]] == ["x", "y"], "a key counts once, as first named"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no key"),
        (["# only", " "], "holds no key"),
        ([API, "short"], "line 2"),
        (["two words 0123456789"], "line 1"),
        ([f"{API} {OTHER}"], "line 1"),
        (["ключ-ключ-ключ-ключ"], "line 1"),
        ([f"{API} # two words"], "line 1: the name"),
        ([f"{API} # key=forged"], "line 1: the name"),
        ([f"{API} # {'x' * 65}"], "line 1: the name"),
        ([f"{API} #"], "line 1: the name"),
    ],
)
def test_a_bad_file_of_keys_is_refused_without_showing_it(
    tmp_path: Path, lines: list[str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        Keys.read(write(tmp_path / "keys", *lines))
    assert not any(line in str(refused.value) for line in lines if line.strip())
    assert API not in str(refused.value)


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the keys"):
        Keys.read(tmp_path / "nowhere")


def test_an_admin_key_is_no_api_key(tmp_path: Path) -> None:
    both = write(tmp_path / "keys", API)
    with pytest.raises(SettingsError, match="both"):
        Guarding.of(read_settings(api_keys_file=both, admin_keys_file=both))
    with pytest.raises(SettingsError, match="needs api_keys_file"):
        Guarding.of(read_settings(max_requests_per_key=3))
