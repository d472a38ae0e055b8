"""Whether the teacher that lies where a family says is the one that it was made from.

A folder can be written over, and then every size computes something else.  The version of a hub id
or a GGUF file is in its name, and costs nothing to read; the files of a folder are hashed, about a
second a gigabyte, so a server does not ask at its start.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from boomerang_core.architectures import architecture_of, shape_of
from boomerang_core.checkpoint import load_config, teacher_folder
from boomerang_core.checkpoint_files import checkpoint_sha256
from boomerang_core.errors import FamilyError
from boomerang_core.family import Family, family_source, verify_family
from boomerang_core.teacher_ref import TeacherRef

VERSION = "teacher_version"
"""In the provenance: the version that the family was made from; imported and older ones lack it.

Of a GGUF file it is the same in every cache: the file's name and the beginning of its sha256.
"""


def version_of(ref: TeacherRef, folder: Path) -> str:
    """What a teacher's contents are known by: a commit, or the sha256 of a GGUF or a folder."""
    return checkpoint_sha256(folder) if ref.kind == "folder" and ref.file is None else folder.name


def measured_source(family: Family) -> dict[str, Any]:
    """What decides what is measured of a family: `family_source`, and the teacher as it lies there.

    Raises `CheckpointError`.
    """
    version = version_of(family.teacher, teacher_folder(family))
    return {**family_source(family), VERSION: version}


def require_own_teacher(family: Family) -> None:
    """Raise `FamilyError` for a damaged teacher, or another one in the place of the family's.

    A teacher inside is held against the sha256 of its files.  Raises `CheckpointError` where there
    is none.
    """
    folder = teacher_folder(family)
    if family.teacher.inside:
        verify_family(family.root)
    config = load_config(folder)
    shape = replace(shape_of(config), bytes_per_param=family.shape.bytes_per_param)
    if (architecture_of(config).name, shape) != (family.architecture, family.shape):
        raise FamilyError(
            f"the checkpoint in {folder} is not the teacher of {family.name}: it must be a "
            f"{family.architecture} of {family.shape.num_layers} layers of the same shapes"
        )
    made_from = family.provenance.get(VERSION)
    if made_from is None or family.teacher.inside:
        return
    found = version_of(family.teacher, folder)
    if found != made_from:
        raise FamilyError(
            f"the checkpoint in {folder} is not the teacher that {family.name} was made from: its "
            f"version must be {made_from}, and is {found}; put that one back, or make the family "
            "again from this one"
        )
