"""Every size of a ladder measured on the same rows, beside naive pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boomerang_core.assemble import assemble
from boomerang_core.checkpoint import load_teacher, load_tokenizer
from boomerang_core.distill.stream import LayerRunner
from boomerang_core.evaluate.perplexity import (
    Lanes,
    evaluate_routes,
    evaluation_rows,
    lanes,
    naive_route,
)
from boomerang_core.family import Family
from boomerang_core.route import FamilyDesign, Route, build_route
from boomerang_core.sizes import Quality
from boomerang_core.student import Student, load_student


@dataclass(frozen=True)
class Measured:
    """Every size of the ladder, smallest first: the family's and naive pruning's."""

    family: Sequence[Quality]
    naive: Sequence[Quality]


def evaluate_design(
    model: Any, student: Student, design: FamilyDesign, ids_RL: torch.Tensor
) -> Measured:
    """Measure every size, and naive pruning, on the same rows of tokens (R, L).

    Naive pruning runs the same routes with the layers as they were before distillation.
    """
    both = design_lanes(model, student, design, ids_RL.shape[1])
    routes = ladder_routes(design)
    naive = [naive_route(route, design.block_map) for route in routes]
    whole = naive[-1]
    return Measured(
        evaluate_routes(both, whole, routes, ids_RL, "sizes"),
        evaluate_routes(both, whole, naive, ids_RL, "naive pruning"),
    )


def design_lanes(model: Any, student: Student, design: FamilyDesign, row_length: int) -> Lanes:
    """Lanes that run every route of a design."""
    smallest = assemble(model, student, build_route(design, 0))
    return lanes(
        LayerRunner(model, row_length), LayerRunner(smallest, row_length), design.block_map
    )


def ladder_routes(design: FamilyDesign) -> list[Route]:
    """The route of every size, smallest first."""
    return [build_route(design, size) for size in range(design.ladder.num_sizes)]


def evaluate_family(family: Family, text: Path, row_length: int, tokens: int) -> Measured:
    """Measure a family on a file of text.  Raises CheckpointError, DataError."""
    ids_RL = evaluation_rows(text, load_tokenizer(family), row_length, tokens)
    model = load_teacher(family, torch.float32).eval().requires_grad_(False)
    return evaluate_design(model, load_student(family.student_dir), family.design, ids_RL)


def pareto(qualities: Sequence[Quality]) -> frozenset[int]:
    """Sizes whose KL is below that of every smaller one; the teacher always."""
    front = {len(qualities) - 1}
    best = math.inf
    for size, quality in enumerate(qualities):
        if quality.kl < best:
            front.add(size)
            best = quality.kl
    return frozenset(front)
