"""Each baseline as a ladder: sizes of given depths, measured as a family's are.

Shapes: R rows, L tokens a row, S sentences.  `ids_RL` is measured on, the rest calibrates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from boomerang_core.assemble import assemble
from boomerang_core.baselines.laco import FinalSimilarity, Plan, laco_plan, laco_student
from boomerang_core.baselines.shortgpt import block_influence, shortgpt_route
from boomerang_core.blocks import BlockMap
from boomerang_core.distill.stream import LayerRunner
from boomerang_core.evaluate.ladder import ladder_routes
from boomerang_core.evaluate.perplexity import evaluate_routes, lanes, naive_route
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, Route, StudentKind, build_route, teacher_route
from boomerang_core.sizes import Quality


@dataclass(frozen=True)
class MeasuredLadder:
    """The routes of a ladder, smallest first, their qualities, and what else is worth noting."""

    routes: Sequence[Route]
    qualities: Sequence[Quality]
    notes: Mapping[str, Any] = field(default_factory=dict)


def naive_ladder(model: Any, design: FamilyDesign, ids_RL: torch.Tensor) -> MeasuredLadder:
    """The family's own routes, with the layers as they were before distillation."""
    routes = [naive_route(route, design.block_map) for route in ladder_routes(design)]
    return MeasuredLadder(routes, _teacher_routes(model, routes, ids_RL, "naive pruning"))


def shortgpt_ladder(
    model: Any, depths: Sequence[int], ids_RL: torch.Tensor, calibration_RL: torch.Tensor
) -> MeasuredLadder:
    """ShortGPT at each depth; the notes hold every layer's Block Influence."""
    influence = block_influence(LayerRunner(model, calibration_RL.shape[1]), calibration_RL)
    routes = [shortgpt_route(influence, depth) for depth in depths]
    qualities = _teacher_routes(model, routes, ids_RL, "ShortGPT")
    return MeasuredLadder(
        routes, qualities, {"block_influence": [round(value, 5) for value in influence]}
    )


def laco_ladder(
    model: Any, depths: Sequence[int], ids_RL: torch.Tensor, sentences_SL: torch.Tensor
) -> MeasuredLadder:
    """LaCo at each depth; one size's merged weights are in memory at a time.

    The notes hold each size's runs of merged layers, and its similarity on the sentences.
    """
    runner = LayerRunner(model, sentences_SL.shape[1])
    similarity = FinalSimilarity(runner, sentences_SL)
    layers = len(runner.layers)
    plans = [laco_plan(layers, depth, similarity) for depth in tqdm(depths, "LaCo", unit="size")]
    sizes = [_laco_size(model, runner, plan, ids_RL) for plan in plans]
    notes = [
        {
            "merged": [[layer.start, layer.stop - 1] for layer in plan if layer.merged],
            "similarity": round(similarity(plan), 4),
        }
        for plan in plans
    ]
    return MeasuredLadder([route for route, _ in sizes], [q for _, q in sizes], {"sizes": notes})


def _laco_size(
    model: Any, runner: LayerRunner, plan: Plan, ids_RL: torch.Tensor
) -> tuple[Route, Quality]:
    student = laco_student(runner, plan)
    block_map, length = student.block_map, ids_RL.shape[1]
    design = FamilyDesign(block_map, Ladder.last_to_first(block_map), StudentKind.FULL)
    route = build_route(design, 0)
    both = lanes(
        LayerRunner(model, length), LayerRunner(assemble(model, student, route), length), block_map
    )
    label = f"LaCo, {len(plan)} layers"
    [quality] = evaluate_routes(
        both, teacher_route(range(len(runner.layers))), [route], ids_RL, label
    )
    return route, quality


def _teacher_routes(
    model: Any, routes: Sequence[Route], ids_RL: torch.Tensor, label: str
) -> list[Quality]:
    runner = LayerRunner(model, ids_RL.shape[1])
    depth = len(runner.layers)
    own = BlockMap.from_layers([[layer] for layer in range(depth)])  # of no student
    return evaluate_routes(
        lanes(runner, None, own), teacher_route(range(depth)), routes, ids_RL, label
    )
