"""What the end-to-end stage begins with: blockwise, the kept layers, or random weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from boomerang_core.architectures import Maps
from boomerang_core.distill.blockwise import Fit, distill_blocks
from boomerang_core.distill.recipe import Recipe
from boomerang_core.initial_student import initial_student, random_student
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign
from boomerang_core.student import Student
from boomerang_core.text.rows import Rows


def starting_student(
    recipe: Recipe, model: Any, runner: LayerRunner, design: FamilyDesign, rows: Rows, stage: Path
) -> tuple[Student, dict[int, Fit]]:
    """The student that the end-to-end stage begins with, in float32, and how its blocks fit.

    `runner` is the teacher `model` taken apart; finished blocks are kept in `stage`.
    """
    torch.manual_seed(recipe.seed)
    if recipe.start == "random":
        return random_student(model, design.block_map, design.own_embeddings), {}
    initial = initial_student(
        model,
        design.block_map,
        design.kind,
        recipe.rank,
        design.own_embeddings,
        Maps(recipe.maps),
    )
    if recipe.start == "naive":
        return initial, {}
    return _blockwise(recipe, runner, initial, design, rows, stage)


def _blockwise(
    recipe: Recipe,
    runner: LayerRunner,
    initial: Student,
    design: FamilyDesign,
    rows: Rows,
    stage: Path,
) -> tuple[Student, dict[int, Fit]]:
    """A student distilled block after block, in float32."""
    own = [index for index, block in enumerate(design.block_map) if not block.shared]
    parameters = {
        index: {name: t.detach().float().clone() for name, t in initial.layer(index).items()}
        for index in own
    }
    count = math.ceil(recipe.block_tokens / recipe.row_length)
    some = Rows(rows.train[:count], rows.heldout[: max(1, count // recipe.heldout_every)])
    fits = distill_blocks(runner, design.block_map, parameters, some, recipe, stage)
    trained = {
        initial.row.layer_name(index, name): tensor.contiguous()
        for index, fit in fits.items()
        for name, tensor in fit.parameters.items()
    }
    return initial.with_tensors(trained), fits
