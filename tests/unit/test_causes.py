"""Which errors may pass, and the exit status that says so; no torch, no network."""

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.errors import (
    BoomerangError,
    CheckpointError,
    DataError,
    WriteError,
    first_line,
)
from boomerang_core.family import Family
from boomerang_core.files import write_text
from tests.imports import heavy_after


class TransportError(Exception):
    """As httpx calls what it raises for a connection that is not made, or breaks."""


class OfflineModeIsEnabled(ConnectionError):  # noqa: N818
    """As the hub's client calls a connection that the user forbids."""


class ResponseError(OSError):
    """As the hub's client raises what the hub answers."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.response = self
        self.status_code = status_code


PASSING = [
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError(),
    TransportError("broken"),
    ResponseError(503),
    ResponseError(429),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("I/O error: No space left on device (os error 28)"),
]
LASTING = [
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError("does not appear to have a file named config.json"),
    ResponseError(404),
    ResponseError(401),
    OfflineModeIsEnabled("offline"),
    ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
    ValueError("I/O error: Permission denied (os error 13)"),
]


def raised(cause: Exception, hidden: bool = False) -> BoomerangError:
    """One of our errors from that cause, or from another error that hides it."""
    try:
        try:
            raise cause
        except Exception as error:
            if hidden:
                raise FileNotFoundError("not found anywhere") from None
            raise DataError("cannot read it") from error
    except FileNotFoundError as error:
        return raised(error)
    except DataError as error:
        return error


@pytest.mark.parametrize("cause", PASSING, ids=repr)
@pytest.mark.parametrize("hidden", [False, True])
def test_may_pass(cause: Exception, hidden: bool) -> None:
    assert raised(cause, hidden).may_pass


@pytest.mark.parametrize("cause", LASTING, ids=repr)
def test_the_user_must_mend(cause: Exception) -> None:
    assert not raised(cause).may_pass
    assert not CheckpointError("there is no checkpoint folder x").may_pass


def test_a_full_disk_may_pass_and_a_file_in_the_way_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as caught:
        write_text(tmp_path / "file" / "x", "text")
    assert not caught.value.may_pass

    def full(*_: object, **__: object) -> None:
        Path("/dev/full").write_bytes(b"x")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match="No space left") as caught:
        write_text(tmp_path / "x", "text")
    assert caught.value.may_pass


@pytest.mark.parametrize(("cause", "status"), [(PASSING[0], 75), (LASTING[0], 2)])
def test_the_exit_status(cause: Exception, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> Family:
        raise raised(cause)

    monkeypatch.setattr(cli.folders, "load_family", fail)
    result = CliRunner().invoke(cli.app, ["sizes", "smollm2-135m"])
    assert (result.exit_code, result.output) == (status, "error: cannot read it\n")


def test_telling_them_apart_loads_nothing_heavy() -> None:
    assert heavy_after("import boomerang_core.errors") == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("one\ntwo"), "one"),
        (OSError(""), "OSError"),
        (ImportError(" \n"), "ImportError"),
        (RuntimeError("\n late"), "late"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line
