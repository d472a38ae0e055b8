"""Every size of a ladder measured on the same rows, beside naive pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from boomerang_core.checkpoint import frozen_teacher, load_tokenizer
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.family import Family
from boomerang_core.route import FamilyDesign, Route, ladder_routes, naive_route
from boomerang_core.route_runner import RouteRunner
from boomerang_core.sizes import Quality
from boomerang_core.student import Student, load_student
from boomerang_core.text.evaluation import Sample

Measure = Callable[[RouteRunner, Route, Sequence[Route], torch.Tensor, str], list[Quality]]
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
    runner = RouteRunner.of(model, student, design, ids_RL.shape[1])
    routes = ladder_routes(design)
    naive = [naive_route(route, design.block_map) for route in routes]
    whole = naive[-1]
    return Measured(
        measure(runner, whole, routes, ids_RL, "sizes"),
        measure(runner, whole, naive, ids_RL, "naive pruning"),
    )


def evaluate_family(
    family: Family,
    sample: Sample,
    measure: Measure = evaluate_routes,
    device: torch.device | None = None,
) -> Measured:
    """Measure a family on a text, in float32.  Raises CheckpointError, DataError."""
    ids_RL = sample.rows(load_tokenizer(family))
    model = frozen_teacher(family, torch.float32, device)
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
