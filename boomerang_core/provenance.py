"""Where an artefact comes from, and writes that are whole or absent."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boomerang_core.errors import WriteError

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "transformers", "safetensors", "gguf")
_SOURCE = Path(__file__).parents[1]
"""The repository, where this is a checkout."""


def provenance(seed: int, **more: Any) -> dict[str, Any]:
    """Command, versions, git commit, hardware and seed, ready for JSON; ``more`` is added."""
    return {
        "command": command_line(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "git": git_commit(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "seed": seed,
        **more,
    }


def hardware() -> str:
    """The processor, and the GPU where a program has used one."""
    used = f"{platform.machine()}, {os.cpu_count()} logical CPUs"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        used += f", {torch.cuda.get_device_name()}"
    return used


def command_line() -> str:
    """The command that was typed, without the folders of this machine."""
    words = [_without_folders(word) for word in sys.argv[1:]]
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m`
    module = spec and f"python -m {spec.name.removesuffix('.__main__')}"
    return " ".join([module or Path(sys.argv[0]).name, *words])


def _without_folders(word: str) -> str:
    """A path's last part; `NAME=PATH` keeps its name."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if os.path.isabs(value) else word


def git_commit(root: Path = _SOURCE) -> str | None:
    """Our own commit, ``-dirty`` when changed; None where this is no checkout of ours.

    Installed, the package may lie in somebody else's repository, as in a project's ``.venv``.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    return _git(root, "describe", "--always", "--dirty", "--abbrev=12")


def _git(folder: Path, *words: str) -> str | None:
    """What git says of the folder itself, whatever repository it is told of; None for an error."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a neighbouring temporary file, then rename it onto ``path``.

    It is on the disk when this returns: after a power cut a rename alone may leave an empty file
    in the place of a whole one.  Raises WriteError where that is not possible; ``path`` is then as
    it was.
    """
    try:
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
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    with contextlib.suppress(OSError):  # the file is in its place; some volumes sync no folder
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none.  Raises WriteError where no file can be written into it.

    For what takes hours before it writes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise WriteError(f"cannot write into {folder}: {error.strerror or error}") from error


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
