"""A tiny teacher and its student, whose sizes are assembled; each kind of student."""

from typing import Any

import pytest
import torch

from boomerang_core.architectures import architecture_of
from boomerang_core.assemble import assemble
from boomerang_core.route import Route, StudentKind, build_route
from tests.core.conftest import LADDER, VOCABULARY, tiny_design, tiny_student, tiny_teacher

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
SIZES = range(LADDER.num_sizes)
KINDS = {"full-own": (FULL, True), "full": (FULL, False), "lowrank": (LOWRANK, False)}


class Case:
    """A teacher, a student, and the routes of all sizes."""

    def __init__(self, name: str, tied: bool, kind: str) -> None:
        self.teacher = tiny_teacher(name, tied)
        self.student = tiny_student(self.teacher, *KINDS[kind])
        self.design = tiny_design(*KINDS[kind])
        self.row = architecture_of(self.teacher.config)
        self.ids = torch.randint(4, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(2))

    def route(self, size: int) -> Route:
        return build_route(self.design, size)

    def assembled(self, size: int, merged: bool = False) -> Any:
        return assemble(self.teacher, self.student, self.route(size), merged)

    def logits(self, model: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(self.ids).logits
        return logits

    def equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Bit for bit, but for the order of sums in W x + B A x and (W + B A) x."""
        if self.student.kind is LOWRANK:
            return torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        return torch.equal(one, other)


@pytest.fixture(params=["full-own", "lowrank"])
def llama(request: pytest.FixtureRequest) -> Case:
    return Case("llama", True, request.param)


def generate(model: Any, ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        use_cache=use_cache,
    )
    return tokens
