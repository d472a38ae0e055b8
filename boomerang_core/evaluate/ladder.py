"""Every size of a ladder measured on the same rows, beside naive pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Measure = Callable[[Lanes, Route, Sequence[Route], torch.Tensor, str], list[Quality]]
"""What `evaluate_routes` does; `parts.Parts` does the same and can be stopped."""


@dataclass(frozen=True)
class Measured:
    """Every size of the ladder, smallest first: the family's and naive pruning's."""

    family: Sequence[Quality]
    naive: Sequence[Quality]


def evaluate_design(
    model: Any,
    student: Student,
    design: FamilyDesign,
    ids_RL: torch.Tensor,
    measure: Measure = evaluate_routes,
) -> Measured:
    """Measure every size, and naive pruning, on the same rows of tokens (R, L).

    Naive pruning runs the same routes with the layers as they were before distillation.
    """
    both = design_lanes(model, student, design, ids_RL.shape[1])
    routes = ladder_routes(design)
    naive = [naive_route(route, design.block_map) for route in routes]
    whole = naive[-1]
    return Measured(
        measure(both, whole, routes, ids_RL, "sizes"),
        measure(both, whole, naive, ids_RL, "naive pruning"),
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


def evaluate_family(
    family: Family,
    text: Path,
    row_length: int,
    tokens: int,
    measure: Measure = evaluate_routes,
    device: torch.device | None = None,
) -> Measured:
    """Measure a family on a file of text, in float32.  Raises CheckpointError, DataError."""
    ids_RL = evaluation_rows(text, load_tokenizer(family), row_length, tokens)
    model = load_teacher(family, torch.float32).to(device).requires_grad_(False)
    student = load_student(family.student_dir)
    return evaluate_design(model, student, family.design, ids_RL, measure)


def pareto(qualities: Sequence[Quality], params: Sequence[int]) -> frozenset[int]:
    """Sizes that no other beats: none with as few parameters is as close to the teacher.

    The last size, the teacher, always belongs.  A tied family whose student owns its embeddings
    has sizes with both vocabulary matrices, larger than the teacher, which therefore do not.
    """
    rated = list(zip(params, (quality.kl for quality in qualities), strict=True))
    beaten = {
        size
        for size, (count, kl) in enumerate(rated)
        if any(p <= count and k <= kl and (p, k) != (count, kl) for p, k in rated)
    }
    return frozenset(range(len(rated))) - beaten | {len(rated) - 1}
