"""What the end-to-end stage begins with: blockwise, the kept layers, or random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from boomerang_core.distill.blockwise import Fit, Parameters, distill_blocks
from boomerang_core.distill.recipe import Recipe
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign
from boomerang_core.student import Student, initial_student, random_student
from boomerang_core.text.rows import Rows


def starting_student(
    recipe: Recipe, model: Any, runner: LayerRunner, design: FamilyDesign, rows: Rows, stage: Path
) -> tuple[Student, dict[int, Fit]]:
    """The student that the end-to-end stage begins with, in float32, and how its blocks fit.

    ``runner`` is the teacher ``model`` taken apart; finished blocks are kept in ``stage``.
    """
    torch.manual_seed(recipe.seed)
    if recipe.start == "random":
        return random_student(model, design.block_map, design.own_embeddings), {}
    initial = initial_student(
        model, design.block_map, design.kind, recipe.rank, design.own_embeddings
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
    layers = runner.architecture.layers
    count = math.ceil(recipe.block_tokens / recipe.row_length)
    fits = distill_blocks(
        runner,
        design.block_map,
        _by_block(initial, layers),
        Rows(rows.train[:count], rows.heldout[: max(1, count // recipe.heldout_every)]),
        recipe,
        stage,
    )
    return _with_parameters(initial, fits, layers), fits


def _by_block(student: Student, prefix: str) -> dict[int, Parameters]:
    """The tensors of the student's layers in float32, by block, named relative to their layer."""
    blocks: dict[int, Parameters] = {}
    for name, tensor in student.tensors.items():
        if not name.startswith(prefix + "."):
            continue  # an embedding, the final norm or the head
        index, _, rest = name.removeprefix(prefix + ".").partition(".")
        blocks.setdefault(int(index), {})[rest] = tensor.detach().float().clone()
    return blocks


def _with_parameters(student: Student, fits: Mapping[int, Fit], prefix: str) -> Student:
    """The student with trained tensors."""
    return student.with_tensors(
        {
            f"{prefix}.{index}.{name}": tensor.contiguous()
            for index, fit in fits.items()
            for name, tensor in fit.parameters.items()
        }
    )
