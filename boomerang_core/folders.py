"""Folders that are whole or absent, and what killed processes leave of them.

A folder is filled under a name of its own and then renamed.  The process that fills it holds an
advisory lock on it, which ends with the process: a folder that nobody holds was left by a killed
one, and the next write to the same place removes it.  On a volume without such locks it stays.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boomerang_core.errors import CheckpointError, WriteError
from boomerang_core.files import writing

_ENDING = re.compile(r"[a-z0-9_]{8}")  # as `tempfile` makes names unique
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def require_unused(out: Path) -> None:
    """Raise `CheckpointError` where `out` exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not an empty folder")


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a neighbouring temporary folder, then rename it to `out`: whole or absent.

    Raises `CheckpointError` where `out` exists and is not an empty folder, `WriteError` where
    there cannot be one, as on a full disk.
    """
    from safetensors import SafetensorError

    require_unused(out)
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with unfinished_folder(out.parent, f".{out.name}.unfinished.") as temporary:
                fill(temporary)
                temporary.chmod(0o755)
                temporary.replace(out)
    except SafetensorError as error:  # its own form of the system's error
        raise WriteError(f"cannot write {out}: {error}") from error


@contextmanager
def unfinished_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, held by this process, and gone at the end unless it was renamed.

    Removes those of the same prefix that no process holds.  Raises `OSError`.
    """
    _remove_left(parent, prefix)
    folder, handle = _held(parent, prefix)
    try:
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for this process alone; it is made where there is none.

    Raises `WriteError`, which may pass, where another process holds it.  On a volume without such
    locks both go on.
    """
    is_new = not folder.exists()
    with writing(f"into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a link to another volume will do
    try:
        _lock(folder, handle)
        try:
            yield
        finally:
            if is_new:
                remove_empty(folder)
    finally:
        os.close(handle)


def remove_empty(folder: Path) -> None:
    """Remove a folder in which nothing was kept; anything else stays."""
    with suppress(OSError):
        folder.rmdir()


def _lock(folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WriteError(f"another process works in {folder}: wait, or take another") from error
    except OSError:
        pass  # no locks here


def _held(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the handle that holds it."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        handle = _open(folder)
        if handle is None:
            continue  # another process took it for left over, before it was held
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # as above
            os.close(handle)
            continue
        except OSError:  # no locks here: nor does anybody remove what is not held
            return folder, handle
        if folder.exists():
            return folder, handle
        os.close(handle)


def _remove_left(parent: Path, prefix: str) -> None:
    """Remove what no process holds."""
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix)]
    for name in names:
        folder = parent / name
        handle = _open(folder) if _ENDING.fullmatch(name.removeprefix(prefix)) else None
        if handle is None:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # held by a process that fills it, or no locks here
        finally:
            os.close(handle)


def _open(folder: Path) -> int | None:
    """A handle of the folder; None where there is none, or none that may be opened."""
    try:
        return os.open(folder, _FOLDER)
    except OSError:
        return None
