"""What a run leaves: the family folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boomerang_core.architectures import model_shape
from boomerang_core.contents import INDEX, RECIPE, REPORT, STUDENT, TRAINING, listed_in
from boomerang_core.distill.blockwise import Fit
from boomerang_core.distill.recipe import Recipe
from boomerang_core.evaluate.ladder import Measured
from boomerang_core.evaluate.record import measured_rows, write_reports
from boomerang_core.family import Family
from boomerang_core.files import copy_file, save_json
from boomerang_core.provenance import provenance
from boomerang_core.route import FamilyDesign
from boomerang_core.saving import saved
from boomerang_core.student import Student, save_student
from boomerang_core.teacher_ref import TeacherRef


@dataclass(frozen=True, eq=False)
class Result:
    """A distilled and measured student, and what the folder says about how it came to be."""

    recipe: Recipe
    teacher: TeacherRef
    model: Any
    design: FamilyDesign
    student: Student
    fits: Mapping[int, Fit]
    measured: Measured
    curve: Path
    notes: Mapping[str, Any]


def write_result(result: Result, out: Path) -> Family:
    """Write the folder, all at once; a family that is there gives way, with all its files.

    Raises `WriteError`; what was there is then as it was.
    """
    recipe, design, measured = result.recipe, result.design, result.measured
    shape = model_shape(result.model)
    family = Family(
        name=recipe.name,
        architecture=result.student.architecture,
        design=design,
        shape=shape,
        teacher=result.teacher,
        rows=measured_rows(design, shape, measured),
        student_params=result.student.num_params,
        footprint_tokens=recipe.footprint_tokens,
        default_size=design.ladder.teacher_size,
        provenance=provenance(recipe.seed, **result.notes),
        root=out,
    )
    with saved(family, without=listed_in(out / INDEX)) as folder:
        save_student(result.student, folder / STUDENT)
        save_json(recipe.to_json(), folder / RECIPE)
        write_reports(folder / REPORT, design, measured)
        _write_errors(folder / REPORT, design, result.fits)
        if result.curve.exists():
            copy_file(result.curve, folder / REPORT / TRAINING)
    return family


def _write_errors(folder: Path, design: FamilyDesign, fits: Mapping[int, Fit]) -> None:
    """`blocks.json`: each block's held-out error at the start and after both stages."""
    stages = ("start", "closed_form", "gradient_steps")
    errors = [
        {
            "block": list(design.block_map[index].layers),
            "kept": design.block_map[index].kept,
            **{name: round(error, 5) for name, error in zip(stages, fit.errors, strict=True)},
        }
        for index, fit in fits.items()
    ]
    save_json(errors, folder / "blocks.json")
