"""Each baseline as a ladder: sizes of given depths, which run as a family's do.

Shapes: R rows, L tokens a row, S sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from boomerang_core.baselines.laco import FinalSimilarity, LayerPlan, laco_plan, laco_student
from boomerang_core.baselines.shortgpt import block_influence, shortgpt_route
from boomerang_core.evaluate.planned import PlannedLadder, Section, teacher_ladder
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign, LayerRef, Owner, Route, ladder_routes, naive_route
from boomerang_core.student import Student


def naive_ladder(design: FamilyDesign) -> PlannedLadder:
    """The family's own routes, with the layers as they were before distillation."""
    routes = [naive_route(route, design.block_map) for route in ladder_routes(design)]
    return teacher_ladder(routes)


def shortgpt_ladder(
    model: Any, depths: Sequence[int], calibration_RL: torch.Tensor
) -> PlannedLadder:
    """ShortGPT at each depth; the notes hold every layer's Block Influence."""
    influence = block_influence(LayerRunner(model, calibration_RL.shape[1]), calibration_RL)
    routes = [shortgpt_route(influence, depth) for depth in depths]
    return teacher_ladder(routes, block_influence=[round(value, 5) for value in influence])


def laco_ladder(model: Any, depths: Sequence[int], sentences_SL: torch.Tensor) -> PlannedLadder:
    """LaCo at each depth, each with a student of its own: its merged weights.

    The notes hold each size's runs of merged layers, and its similarity on the sentences.
    """
    runner = LayerRunner(model, sentences_SL.shape[1])
    similarity = FinalSimilarity(runner, sentences_SL)
    layers = len(runner.layers)
    plans = [laco_plan(layers, depth, similarity) for depth in tqdm(depths, "LaCo", unit="size")]
    notes = [
        {
            "merged": [[layer.start, layer.stop - 1] for layer in plan if layer.merged],
            "similarity": round(similarity(plan), 4),
        }
        for plan in plans
    ]
    sections = [Section([_laco_route(plan)], partial(_laco_student, plan)) for plan in plans]
    return PlannedLadder(sections, {"sizes": notes})


def _laco_route(plan: LayerPlan) -> Route:
    """The student's layers, which are the plan's; those that it shares are the teacher's."""
    refs = (
        LayerRef(Owner.STUDENT, index) if layer.merged else LayerRef(Owner.TEACHER, layer.start)
        for index, layer in enumerate(plan)
    )
    return Route(tuple(refs), Owner.TEACHER, Owner.TEACHER)


def _laco_student(plan: LayerPlan, model: Any) -> Student:
    return laco_student(LayerRunner(model, row_length=1), plan)
