"""A tiny end-to-end run, for the tests and for the processes that they start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from boomerang_core.distill.metrics import METRICS
from boomerang_core.distill.schedule import EndToEnd, Schedule
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.student import Student, initial_student
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
