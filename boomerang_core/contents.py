"""Which files a family folder holds, and that each has the sha256 in its index.

Names that begin with a dot (a hub's client keeps its notes there), a model card and a licence are
neither listed nor checked: no program reads them.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from boomerang_core.errors import FamilyError

INDEX = "family.json"
RECIPE = "recipe.json"
STUDENT, REPORT = "student", "report"
NAIVE, TASKS, SIMILARITY, TRAINING = (
    "naive.json",
    "tasks.json",
    "similarity.json",
    "training.jsonl",
)
"""Files of the report: naive pruning, scores on tasks, cosines of hidden states, training."""
TEACHER = "teacher"
"""The folder of a packed family's teacher."""
NEXT = ".next"
"""In a family folder: the files of a save that is made, on their way to their places."""

_FOR_PEOPLE = frozenset({"README.md", "LICENSE"})
_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def files_in(folder: Path) -> list[str]:
    """The names of a family folder's files, without the index and what begins with a dot."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return sorted(name.as_posix() for name in shown if name.name != INDEX)


def list_files(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Name → sha256 of each file to list; those `known` are not read."""
    return {
        name: known.get(name) or sha256_of(folder / name)
        for name in files_in(folder)
        if name not in _FOR_PEOPLE
    }


def listed_in(index: Path) -> dict[str, str]:
    """The files that an index lists; none where there is no index, or a malformed one.

    Raises `FamilyError` where one lies outside of the index's folder.
    """
    try:
        listed = dict(json.loads(index.read_text(encoding="utf-8"))["sha256"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    require_inside(index.parent, listed)
    return listed


def require_nothing_else(out: Path) -> None:
    """Raise `FamilyError` where `out` holds files that are no family's.

    Whatever lies there when a family is written becomes part of it, and is published with it.
    """
    finish_save(out)
    listed = listed_in(out / INDEX)
    others = sorted(set(files_in(out)) - listed.keys() - _FOR_PEOPLE)
    if not listed and (out / INDEX).exists():
        others = [INDEX]
    if others:
        raise FamilyError(
            f"{out} holds {others[0]}, which is no family's, and would become part of this one: "
            "give a folder that is empty, or a family's"
        )


def require_inside(folder: Path, names: Iterable[str]) -> None:
    """Raise `FamilyError` for a name that leads out of a family folder, by itself or by a link.

    Who made the folder need not be trusted, and what it lists is read, moved and removed.  A file
    may be a link, as the hub's client keeps them: only its name is moved or removed.
    """
    root = os.path.realpath(folder)
    for name in names:
        path = PurePath(name)
        leaves = path.is_absolute() or ".." in path.parts or "\0" in name
        if leaves or not Path(os.path.realpath(folder / path.parent)).is_relative_to(root):
            raise FamilyError(f"{folder / INDEX} lists {name!r}, which leaves the family folder")


def finish_save(folder: Path) -> None:
    """Move a save's files to their places, the index last; nothing where there is no save.

    Whoever loads a family does what a killed process left undone, and several may at once: a file
    that is gone was moved.  Raises `FamilyError` where the folder cannot be written, and where a
    file would be moved or removed outside of it.
    """
    save = folder / NEXT
    if not save.is_dir():
        return
    if save.is_symlink():
        raise FamilyError(f"{save} is a link, which no save of ours is: remove it")
    try:
        kept, before, names = listed_in(save / INDEX), listed_in(folder / INDEX), files_in(save)
        require_inside(folder, names)
        for name in names:
            _move(save / name, folder / name)
        if kept:  # else its index is in its place, and nothing left to remove
            for name in before.keys() - kept.keys():
                (folder / name).unlink(missing_ok=True)
            _move(save / INDEX, folder / INDEX)
        shutil.rmtree(save, ignore_errors=True)
    except OSError as error:
        raise FamilyError(
            f"a save into {folder} was broken off, and cannot be finished from here: "
            f"{error.strerror}; `boomerang verify` finishes it where the folder can be written"
        ) from error


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # another process moved it
        source.replace(target)


def verify_files(folder: Path, expected: object, teacher_weights: bool) -> None:
    """Raise `FamilyError` where files are not those `expected`: name → sha256.

    Without `teacher_weights`, the weights of a teacher inside must be there, and are not read.
    """
    if not isinstance(expected, dict) or not expected:
        raise FamilyError(f"{folder / INDEX} lists no files under 'sha256'")
    require_inside(folder, expected)
    present = set(files_in(folder))
    if missing := sorted(set(expected) - present):
        raise FamilyError(f"{folder} lacks {missing[0]}")
    if unlisted := sorted(present - set(expected) - _FOR_PEOPLE):
        raise FamilyError(f"{folder} holds {unlisted[0]}, which {INDEX} does not list")
    for name, digest in expected.items():
        if not teacher_weights and _is_teacher_weights(name):
            continue
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise FamilyError(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise FamilyError(f"{folder / name} is corrupt: its sha256 is not the one in {INDEX}")


def _is_teacher_weights(name: str) -> bool:
    return name.startswith(f"{TEACHER}/") and name.endswith(".safetensors")
