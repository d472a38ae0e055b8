"""A family with its teacher inside: one folder that serves wherever it is copied to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from boomerang_core.checkpoint import (
    check_weights,
    pinned,
    teacher_folder,
)
from boomerang_core.checkpoint_files import CONFIG, copy_companions, shard_index, weight_files
from boomerang_core.contents import TEACHER, files_in
from boomerang_core.errors import SettingsError
from boomerang_core.family import PACKED_TEACHER, Family, load_family, write_family
from boomerang_core.files import copy_file
from boomerang_core.folders import require_unused, write_folder
from boomerang_core.own_teacher import require_own_teacher
from boomerang_core.teacher_ref import TeacherRef


def pack_family(family: Family, out: Path) -> Family:
    """Copy the family and its teacher into `out`, whole or not at all, and read it back.

    Of the teacher only the files that are read are copied: config, safetensors, tokenizer and
    generation config.  Its old name stays in the provenance.  Raises `CheckpointError` where `out`
    is in use or the teacher cannot be read, `FamilyError` where it is not this family's,
    `SettingsError` where `out` lies in the family folder, `WriteError` where the disk is full.
    """
    require_unused(out)
    require_outside(out, family)
    require_own_teacher(family)

    def fill(folder: Path) -> None:
        for name in files_in(family.root):
            if not _is_of_teacher(name, family.teacher):
                copy_file(family.root / name, folder / name)
        write_family(carry_teacher(family, folder), folder)

    write_folder(out, fill)
    return load_family(out)


def carry_teacher(family: Family, folder: Path) -> Family:
    """Copy the family's teacher into `folder`; the family that refers to it there.

    The teacher must be the family's own.
    """
    source = teacher_folder(family)
    _copy_checkpoint(source, folder / TEACHER)
    return replace(
        family,
        teacher=TeacherRef("folder", TEACHER),
        # the teacher of a packed family keeps its first name
        provenance={
            PACKED_TEACHER: pinned(family.teacher, source).pinned_name,
            **family.provenance,
        },
    )


def require_outside(out: Path, family: Family) -> None:
    """Raise `SettingsError` where `out` lies in the family folder."""
    if out.resolve().is_relative_to(family.root.resolve()):
        raise SettingsError(f"{out} lies in the family folder, which holds only what it lists")


def _is_of_teacher(name: str, teacher: TeacherRef) -> bool:
    """Whether a file of the family folder belongs to a teacher in it."""
    folders = [TEACHER, teacher.location] if teacher.inside else [TEACHER]
    return any(Path(name).is_relative_to(folder) for folder in folders)


def _copy_checkpoint(source: Path, out: Path) -> None:
    index = shard_index(source)
    for path in [source / CONFIG, *weight_files(source), *([index] if index else [])]:
        copy_file(path, out / path.name)
    check_weights(out)
    copy_companions(source, out)
