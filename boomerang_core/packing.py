"""A family with its teacher inside: one folder that serves wherever it is copied to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from boomerang_core.architectures import architecture_of, shape_of
from boomerang_core.checkpoint import (
    check_weights,
    clear_errors,
    copy_companions,
    load_config,
    require_unused,
    teacher_folder,
    write_folder,
)
from boomerang_core.contents import TEACHER, files_in
from boomerang_core.errors import CheckpointError, FamilyError, SettingsError
from boomerang_core.family import (
    PACKED_TEACHER,
    Family,
    TeacherRef,
    load_family,
    verify_family,
    write_family,
)
from boomerang_core.provenance import copy_file

_WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"


def pack_family(family: Family, out: Path) -> Family:
    """Copy the family and its teacher into `out`, whole or not at all, and read it back.

    Of the teacher, what is read is copied: config, safetensors, tokenizer, generation config.  Its
    old name stays in the provenance.  Raises `CheckpointError` where `out` is in use or the teacher
    cannot be read, `FamilyError` where it is not this family's, `SettingsError` where `out` lies in
    the family folder, `WriteError` where the disk is full.
    """
    require_unused(out)
    require_outside(out, family)

    def fill(folder: Path) -> None:
        for name in files_in(family.root):
            if not _is_of_teacher(name, family.teacher):
                copy_file(family.root / name, folder / name)
        write_family(carry_teacher(family, folder), folder)

    write_folder(out, fill)
    return load_family(out)


def carry_teacher(family: Family, folder: Path) -> Family:
    """Copy the family's teacher into `folder`; the family that refers to it there."""
    source = teacher_folder(family)
    _check_teacher(family, source)
    _copy_checkpoint(source, folder / TEACHER)
    return replace(
        family,
        teacher=TeacherRef("folder", TEACHER),
        # the teacher of a packed family keeps its first name
        provenance={PACKED_TEACHER: _full_name(family.teacher, source), **family.provenance},
    )


def require_outside(out: Path, family: Family) -> None:
    """Raise `SettingsError` where `out` lies in the family folder."""
    if out.resolve().is_relative_to(family.root.resolve()):
        raise SettingsError(f"{out} lies in the family folder, which holds only what it lists")


def _is_of_teacher(name: str, teacher: TeacherRef) -> bool:
    """Whether a file of the family folder belongs to a teacher in it."""
    folders = [TEACHER, teacher.location] if teacher.inside else [TEACHER]
    return any(Path(name).is_relative_to(folder) for folder in folders)


def _check_teacher(family: Family, source: Path) -> None:
    """Raise `FamilyError` for a damaged teacher, or another one in the place of the family's."""
    if family.teacher.inside:
        verify_family(family.root)
    config = load_config(source)
    shape = replace(shape_of(config), bytes_per_param=family.shape.bytes_per_param)
    if (architecture_of(config).name, shape) != (family.architecture, family.shape):
        raise FamilyError(f"the checkpoint in {source} is not the teacher of {family.name}")


def _copy_checkpoint(source: Path, out: Path) -> None:
    for path in [source / "config.json", *weight_files(source)]:
        copy_file(path, out / path.name)
    check_weights(out)
    copy_companions(source, out)


def weight_files(folder: Path) -> list[Path]:
    """What transformers reads of a checkpoint's weights: one file, or an index and its shards.

    Some checkpoints hold them a second time, in files of another layout.
    """
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    index = folder / _SHARDS
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    with clear_errors(index):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [folder / Path(name).name for name in names]
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{folder} lacks {missing[0].name}, which {_SHARDS} lists")
    return [index, *shards]


def _full_name(teacher: TeacherRef, folder: Path) -> str:
    """The teacher's name; of a hub id with the commit, by which the hub's client names folders."""
    revision = folder.name if teacher.kind == "hub" and not teacher.file else teacher.revision
    return f"{teacher.name}@{revision}" if revision else teacher.name
