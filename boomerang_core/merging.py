"""A low-rank family with deltas merged: the same outputs from weights of the student's own.

Deltas save memory and cost time: every student layer runs the kept layer's matrices and its own
small ones.  Merged once, W + B A, a map runs as fast as a plain one and takes as much memory.
Attention has most of the small products and the least of the memory: merging its deltas alone
buys back some of the time for little.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from boomerang_core.architectures import Architecture, Maps
from boomerang_core.checkpoint import load_teacher
from boomerang_core.contents import INDEX, SIMILARITY, STUDENT, TASKS, sha256_of
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family, family_source, load_family, write_family
from boomerang_core.files import save_json
from boomerang_core.folders import require_unused, write_folder
from boomerang_core.lowrank import A, B
from boomerang_core.own_teacher import require_own_teacher
from boomerang_core.packing import carry_teacher, require_outside
from boomerang_core.route import StudentKind
from boomerang_core.student import Student, Tensors, load_student, merged_layer, save_student


def merge_family(family: Family, out: Path, maps: Maps = Maps.ALL) -> Family:
    """Write the family with deltas merged into `out`, whole or not at all, and read it back.

    With those of all `maps` the student is full; else the others stay.  The merged maps are stored
    in the teacher's dtype.  Name, ladder, default size, report and measured quality stay; the
    recipe, which would make the deltas again, does not.  A packed family's teacher comes along.
    Raises `SettingsError` where there is no delta left to merge or `out` lies in the family,
    `CheckpointError` where `out` is in use, `FamilyError` where the teacher is not this family's.
    """
    family.require_deltas()
    require_unused(out)
    require_outside(out, family)
    require_own_teacher(family)
    student = merged_student(family, maps)

    def fill(folder: Path) -> None:
        save_student(student, folder / STUDENT)
        described = _described(family, student)
        _carry_report(family, replace(described, root=folder))
        if family.teacher.inside:
            described = carry_teacher(described, folder)
        write_family(described, folder)

    write_folder(out, fill)
    return load_family(out)


def _carry_report(family: Family, merged: Family) -> None:
    """Copy the report; what names the student that it measured names the merged one."""
    if not family.report_dir.is_dir():
        return
    shutil.copytree(family.report_dir, merged.report_dir)
    for name in (TASKS, SIMILARITY):
        path = merged.report_dir / name
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if record.get("source") == family_source(family):
            save_json({**record, "source": family_source(merged)}, path)


def merged_student(family: Family, maps: Maps = Maps.ALL) -> Student:
    """The student with the deltas of those maps merged into weights of its own.

    Raises `SettingsError` where none of them has a delta.
    """
    teacher, lowrank = load_teacher(family), load_student(family.student_dir)
    layers = teacher.get_submodule(lowrank.row.layers)
    wanted = lowrank.row.maps(maps)
    tensors: Tensors = {}
    for index, block in enumerate(lowrank.block_map):
        if not block.shared:
            kept, own = layers[block.kept].state_dict(), lowrank.layer(index)
            layer = _with_weights(kept, own, wanted, lowrank.row)
            whole = {**kept, **layer} if maps is Maps.ALL else layer
            tensors |= {lowrank.row.layer_name(index, name): t for name, t in whole.items()}
    if tensors.keys() == lowrank.tensors.keys():
        raise SettingsError(f"{family.name}: no map of {maps} has a delta: nothing to merge")
    kind = StudentKind.FULL if maps is Maps.ALL else StudentKind.LOWRANK
    return Student(lowrank.architecture, kind, lowrank.block_map, False, tensors)


def _with_weights(
    kept: Mapping[str, torch.Tensor], own: Tensors, maps: Sequence[str], row: Architecture
) -> Tensors:
    """A layer's own tensors, with weights instead of deltas for some of its linear maps."""
    deltas = {name: own[name] for path in maps for name in (path + A, path + B) if name in own}
    weights = {f"{path}.weight": kept[f"{path}.weight"] for path in maps if path + A in own}
    others = {name: tensor for name, tensor in own.items() if name not in deltas}
    return {**others, **merged_layer(weights, deltas, row)}


def _described(family: Family, student: Student) -> Family:
    origin = {"merged_from": sha256_of(family.root / INDEX)}
    return replace(
        family,
        design=replace(family.design, kind=student.kind),
        student_params=student.num_params,
        provenance={**family.provenance, **origin},
    )
