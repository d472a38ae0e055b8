"""Keys follow their files, at most every few seconds; what cannot be used changes nothing."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server.guard.key_files import LOOK_SECONDS, KeyFiles
from server.logs import LIFE
from tests.unit.guarding import ADMIN, API, OTHER, write

NEXT = "next-key-0123456789"


class Clock:
    """A clock that stands still between looks."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self) -> None:
        self.now += LOOK_SECONDS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> KeyFiles:
    api = write(tmp_path / "api", API, f"{OTHER} # one")
    return KeyFiles(api, write(tmp_path / "admin", ADMIN), clock)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """What was logged since it was last asked: (level, message)."""
    caplog.set_level(logging.INFO, logger=LIFE)

    def lines() -> list[tuple[str, str]]:
        found = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == LIFE]
        caplog.clear()
        return found

    return lines


Said = Callable[[], list[tuple[str, str]]]


def opens(files: KeyFiles, *keys: str) -> list[bool]:
    """Which of those are API keys now."""
    now = files.now().api
    assert now is not None
    return [now.find(key) is not None for key in keys]


def test_new_keys_count_and_old_ones_are_refused(
    files: KeyFiles, tmp_path: Path, clock: Clock, said: Said
) -> None:
    write(tmp_path / "api", NEXT, f"{OTHER} # one")
    assert opens(files, API, NEXT) == [True, False], "it is not looked at for every request"
    clock.tick()
    assert opens(files, API, OTHER, NEXT) == [False, True, True]
    assert said() == [("INFO", "the keys were read again: 2 API keys, 1 admin key")]
    clock.tick()
    assert opens(files, NEXT) == [True]
    assert said() == []


def test_a_folder_that_is_swapped_as_kubernetes_does(
    tmp_path: Path, clock: Clock, said: Said
) -> None:
    """keys/api-keys → ..data/api-keys, and ..data → a folder, which is replaced by renaming."""
    for folder, key in (("..one", API), ("..two", NEXT)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "api-keys", key)
        os.utime(tmp_path / folder / "api-keys", (1, 1))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "api-keys").symlink_to("..data/api-keys")
    files = KeyFiles(tmp_path / "api-keys", None, clock)
    (tmp_path / "..tmp").symlink_to("..two")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    clock.tick()
    assert opens(files, API, NEXT) == [False, True]
    assert said() == [("INFO", "the keys were read again: 1 API key")]


def test_a_file_with_the_same_keys_says_nothing(
    files: KeyFiles, tmp_path: Path, clock: Clock, said: Said
) -> None:
    write(tmp_path / "new", "# a comment", API, f"{OTHER} # one").rename(tmp_path / "api")
    clock.tick()
    assert opens(files, API, OTHER) == [True, True]
    assert said() == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (None, "cannot read the keys of"),
        ([], "holds no key"),
        ([NEXT, "short"], "line 2: a key is"),
        ([NEXT, ADMIN], "a key is in both"),
    ],
)
def test_a_bad_file_keeps_the_keys_and_is_told_once(
    files: KeyFiles, tmp_path: Path, clock: Clock, said: Said, lines: list[str] | None, says: str
) -> None:
    if lines is None:
        (tmp_path / "api").unlink()
    else:
        write(tmp_path / "api", *lines)
    for _ in range(3):
        clock.tick()
        assert opens(files, API, NEXT) == [True, False]
    ((level, message),) = said()
    assert level == "ERROR"
    assert says in message
    assert message.endswith("stay valid")
    assert not any(key in message for key in (API, NEXT, "short"))
    write(tmp_path / "api", NEXT)
    clock.tick()
    assert opens(files, API, NEXT) == [False, True]
    assert said() == [("INFO", "the keys were read again: 1 API key, 1 admin key")]


def test_a_file_that_cannot_be_read_for_a_while(
    files: KeyFiles, clock: Clock, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its identity is what it was: it is tried again all the same, and its end is told."""
    real = Path.read_text
    paths = files._paths

    def fails(path: Path, encoding: str) -> str:
        if path in paths:
            raise OSError(5, "Input/output error")
        return real(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", fails)
    assert paths[0] is not None
    os.utime(paths[0])
    clock.tick()
    assert opens(files, API) == [True]
    assert [level for level, _ in said()] == ["ERROR", "ERROR"], "one for each file"
    monkeypatch.undo()
    clock.tick()
    assert opens(files, API) == [True]
    assert said() == [("INFO", "the keys were read again: 2 API keys, 1 admin key")]


def test_one_bad_file_does_not_hold_the_other(
    files: KeyFiles, tmp_path: Path, clock: Clock, said: Said
) -> None:
    """A key that was revoked must not stay because of the other file."""
    write(tmp_path / "admin", "short")
    write(tmp_path / "api", NEXT)
    clock.tick()
    assert opens(files, API, NEXT) == [False, True]
    admin = files.now().admin
    assert admin is not None
    assert admin.find(ADMIN)
    assert [level for level, _ in said()] == ["ERROR", "INFO"]


def test_a_key_may_move_from_one_file_to_the_other(
    files: KeyFiles, tmp_path: Path, clock: Clock, said: Said
) -> None:
    write(tmp_path / "api", API)
    write(tmp_path / "admin", OTHER)
    clock.tick()
    assert opens(files, OTHER) == [False]
    assert [level for level, _ in said()] == ["INFO"]


def test_a_pipe_is_read_once(tmp_path: Path, clock: Clock, said: Said) -> None:
    """`<(command)` of a shell: to open it again would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write, args=(pipe, API))
    writer.start()
    files = KeyFiles(pipe, write(tmp_path / "admin", ADMIN), clock)
    writer.join()
    write(tmp_path / "admin", NEXT)
    clock.tick()
    assert opens(files, API) == [True]
    assert said() == [("INFO", "the keys were read again: 1 API key, 1 admin key")]
