"""Where an artefact comes from: command, versions, git commit, hardware, seed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "safetensors", "gguf")
_SOURCE = Path(__file__).parents[1]
"""The repository, where this is a checkout."""


def provenance(seed: int, **more: Any) -> dict[str, Any]:
    """Command, versions, git commit, hardware and seed, ready for JSON; `more` is added."""
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
    """Our own commit, `-dirty` when changed; None where this is no checkout of ours.

    Installed, the package may lie in somebody else's repository, as in a project's `.venv`.
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
