"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boomerang_core.errors import WriteError

if TYPE_CHECKING:
    import torch


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Around writes: an error of the system becomes a `WriteError` that names `what`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {what}: {error.strerror or error}") from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a neighbouring temporary file, then rename it onto `path`.

    It is on the disk when this returns: after a power cut a rename alone may leave an empty file
    in the place of a whole one.  Raises WriteError where that is not possible; `path` is then as
    it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            _sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # the file is in its place; some volumes sync no folder
        _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none.  Raises WriteError where no file can be written into it.

    For what takes hours before it writes.
    """
    with writing(f"into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content, atomically."""

    def write(temporary: Path) -> None:
        shutil.copyfile(source, temporary)

    write_atomically(path, write)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically; names sorted, so that bytes repeat."""
    from safetensors import SafetensorError  # keeps torch out of the pure modules' imports
    from safetensors.torch import save_file

    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    try:
        write_atomically(path, lambda temporary: save_file(ordered, temporary))
    except SafetensorError as error:  # its own form of the system's error
        raise WriteError(f"cannot write {path}: {error}") from error


def save_json(value: Any, path: Path) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
