"""A tiny end-to-end run, for the tests and for the processes that they start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.distill.metrics import METRICS
from boomerang_core.distill.schedule import EndToEnd, Schedule
from boomerang_core.initial_student import initial_student
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.student import Student
from tests.core.conftest import BLOCKS, LADDER, RANK, VOCABULARY

ROW = 12
SETTINGS = EndToEnd(
    tokens=20 * 4 * ROW, batch_rows=4, micro_rows=4, learning_rate=5e-3, precision="fp32"
)


def tiny_rows() -> torch.Tensor:
    return torch.randint(VOCABULARY, (10, ROW), generator=torch.Generator().manual_seed(3))


def start(teacher: Any, kind: StudentKind, own: bool = False) -> tuple[Student, FamilyDesign]:
    torch.manual_seed(1)
    student = initial_student(teacher, BLOCKS, kind, RANK, own)
    return student, FamilyDesign(BLOCKS, LADDER, kind, own)


def shared_end(teacher: Any, own: bool) -> tuple[Student, FamilyDesign]:
    """A student moved a little, whose size 1 has no layer of its own, as the last block is shared.

    What it has is the student's head, or nothing.
    """
    blocks = BlockMap.from_layers([[0, 1], [2, 3, 4], [5]], shared=[5])
    student = initial_student(teacher, blocks, StudentKind.FULL, 0, own)
    moved = student.with_tensors({name: t + 0.01 for name, t in student.tensors.items()})
    return moved, FamilyDesign(blocks, Ladder(3, ((0, 1), (2,))), StudentKind.FULL, own)


def same(one: Student, other: Student) -> bool:
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def metrics(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / METRICS).read_text().splitlines()]


def told(line: dict[str, float], name: str) -> float:
    """What a line of metrics, of one step, says of that step."""
    return next(line[key] for key in (f"student/{name}", f"interpolated/{name}") if key in line)


@contextmanager
def before_step(step: int, call: Callable[[], None]) -> Iterator[None]:
    """Every run inside does something just before that step's rows are taken."""
    plain = Schedule.rows

    def rows(self: Schedule, at: int) -> torch.Tensor:
        if at == step:
            call()
        return plain(self, at)

    with mock.patch.object(Schedule, "rows", rows):
        yield
