"""A low-rank family made full: the same outputs from a student with weights of its own.

Deltas save memory and cost time: every student layer runs the kept layer's matrices and its own
small ones.  Merged once, W + B A, it runs as fast as a plain layer and takes as much memory.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from boomerang_core.architectures import architecture_of
from boomerang_core.checkpoint import load_teacher, require_unused, write_folder
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.comparison import family_source
from boomerang_core.evaluate.extras import SIMILARITY, TASKS
from boomerang_core.family import INDEX, Family, load_family, sha256_of, write_family
from boomerang_core.packing import carry_teacher, require_outside
from boomerang_core.provenance import save_json
from boomerang_core.route import StudentKind
from boomerang_core.student import Student, load_student, merge, save_student

_REPORT = "report"


def merge_family(family: Family, out: Path) -> Family:
    """Write the family with its deltas merged into `out`, whole or not at all, and read it back.

    The merged layers are stored in the teacher's dtype.  Name, ladder, default size, report and
    measured quality stay; the recipe, which would make a low-rank student again, does not.  A
    packed family's teacher comes along.  Raises `SettingsError` where the student is full already
    or `out` lies in the family, `CheckpointError` where `out` is in use.
    """
    if family.design.kind is not StudentKind.LOWRANK:
        raise SettingsError(f"{family.name} has a full student already: there is nothing to merge")
    require_unused(out)
    require_outside(out, family)
    student = merged_student(family)

    def fill(folder: Path) -> None:
        save_student(student, folder / "student")
        described = _described(family, student)
        _carry_report(family, replace(described, root=folder))
        if family.teacher.inside:
            described = carry_teacher(described, folder)
        write_family(described, folder)

    write_folder(out, fill)
    return load_family(out)


def _carry_report(family: Family, merged: Family) -> None:
    """Copy the report; what names the student that it measured names the merged one."""
    if not (family.root / _REPORT).is_dir():
        return
    shutil.copytree(family.root / _REPORT, merged.root / _REPORT)
    for name in (TASKS, SIMILARITY):
        path = merged.root / _REPORT / name
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if record.get("source") == family_source(family):
            save_json({**record, "source": family_source(merged)}, path)


def merged_student(family: Family) -> Student:
    """The full student: each layer is the kept teacher layer with its delta merged in."""
    teacher, lowrank = load_teacher(family), load_student(family.student_dir)
    row = architecture_of(teacher.config)
    layers = teacher.get_submodule(row.layers)
    tensors = {
        row.layer_name(index, name): tensor
        for index, block in enumerate(lowrank.block_map)
        if not block.shared
        for name, tensor in merge(
            layers[block.kept].state_dict(), lowrank.layer(index), row
        ).items()
    }
    return Student(lowrank.architecture, StudentKind.FULL, lowrank.block_map, False, tensors)


def _described(family: Family, student: Student) -> Family:
    origin = {"merged_from": sha256_of(family.root / INDEX)}
    return replace(
        family,
        design=replace(family.design, kind=StudentKind.FULL),
        student_params=student.num_params,
        provenance={**family.provenance, **origin},
    )
