"""What the sizes of a ladder run, apart from measuring it: routes, and the students that they need.

Shapes: R rows, L tokens a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from boomerang_core.architectures import architecture_of
from boomerang_core.assemble import assemble
from boomerang_core.blocks import BlockMap
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.family import Family
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import Route, StudentKind, ladder_routes, teacher_route
from boomerang_core.route_runner import RouteRunner
from boomerang_core.sizes import Quality
from boomerang_core.student import Student, load_student


@dataclass(frozen=True)
class Section:
    """Neighbouring sizes of a ladder that take layers of one student.

    `student` makes it for a teacher, in that one's dtype and on its device.  The first route runs
    every layer of the student's that any of them runs.
    """

    routes: Sequence[Route]
    student: Callable[[Any], Student]


@dataclass(frozen=True)
class PlannedLadder:
    """The sizes of a ladder, smallest first, the teacher last; and what is worth noting of them.

    Where each section has a student of its own, one at a time needs to be in memory.
    """

    sections: Sequence[Section]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def routes(self) -> list[Route]:
        """The route of every size."""
        return [route for section in self.sections for route in section.routes]


def family_ladder(family: Family) -> PlannedLadder:
    """The sizes of a family."""

    def student(model: Any) -> Student:
        return load_student(family.student_dir).to(next(model.parameters()))

    return PlannedLadder([Section(ladder_routes(family.design), student)])


def teacher_ladder(routes: Sequence[Route], **notes: Any) -> PlannedLadder:
    """Sizes that run layers of the teacher alone."""
    return PlannedLadder([Section(routes, sharing_student)], notes)


def sharing_student(model: Any) -> Student:
    """A student without a tensor of its own: it shares every layer with its teacher."""
    row = architecture_of(model.config)
    layers = range(len(model.get_submodule(row.layers)))
    block_map = BlockMap.from_layers([[layer] for layer in layers], shared=layers)
    return Student(row.name, StudentKind.FULL, block_map, False, {})


def measure_ladder(
    model: Any, ladder: PlannedLadder, ids_RL: torch.Tensor, label: str
) -> list[Quality]:
    """The quality of every size on rows of tokens (R, L).  `label` names the progress bars."""
    return [
        quality
        for section in ladder.sections
        for quality in _measure_section(model, section, ids_RL, label)
    ]


def _measure_section(
    model: Any, section: Section, ids_RL: torch.Tensor, label: str
) -> list[Quality]:
    student, length = section.student(model), ids_RL.shape[1]
    smallest, *others = section.routes
    teacher = LayerRunner(model, length)
    own = LayerRunner(assemble(model, student, smallest), length)
    told = label if others else f"{label}, {len(smallest.layers)} layers"
    return evaluate_routes(
        RouteRunner(teacher, own, student.block_map),
        teacher_route(range(len(teacher.layers))),
        section.routes,
        ids_RL,
        told,
    )
