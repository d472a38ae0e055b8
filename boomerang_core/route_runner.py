"""Runs routes: any size of a family, layer by layer, without assembling a model for it.

Shapes: R rows, B rows at a time, L tokens a row, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from boomerang_core.assemble import assemble
from boomerang_core.blocks import BlockMap
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign, LayerRef, Owner, Route, build_route
from boomerang_core.student import Student


@dataclass(frozen=True)
class RouteRunner:
    """A teacher, and its student as a model of one layer a block, taken apart to run routes.

    A student layer is called as the model calls the block's kept layer, so that it gets that
    layer's mask.  `student` None runs routes of teacher layers alone.
    """

    teacher: LayerRunner
    student: LayerRunner | None
    block_map: BlockMap

    @classmethod
    def of(cls, model: Any, student: Student, design: FamilyDesign, row_length: int) -> Self:
        """It runs every route of a design; `model` is the teacher, which is only referenced."""
        smallest = assemble(model, student, build_route(design, 0))
        teacher, own = (LayerRunner(each, row_length) for each in (model, smallest))
        return cls(teacher, own, design.block_map)

    @property
    def device(self) -> torch.device:
        """Where hidden states live."""
        return self.teacher.device

    def embed(self, owner: Owner, ids_BL: torch.Tensor) -> torch.Tensor:
        """What enters the first layer (B, L, D)."""
        return self._runner(owner).embed(ids_BL)

    def step(self, ref: LayerRef, hidden_BLD: torch.Tensor) -> torch.Tensor:
        """The output of one layer of a route (B, L, D)."""
        layer: nn.Module = self._runner(ref.owner).layers[ref.index]
        is_student = ref.owner is Owner.STUDENT
        place = self.block_map[ref.index].kept if is_student else ref.index
        return self.teacher.run(layer, place, hidden_BLD)

    def head(self, owner: Owner, hidden_BLD: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, V)."""
        return self._runner(owner).head(hidden_BLD)

    def _runner(self, owner: Owner) -> LayerRunner:
        if owner is Owner.TEACHER:
            return self.teacher
        assert self.student is not None, "a route with student layers needs a student"
        return self.student


class Prefix:
    """Hidden states along the last route, for one batch of rows.

    The next route starts from where it leaves that one, so neighbouring sizes of a ladder share
    the work of their common beginning.
    """

    def __init__(self, runner: RouteRunner, ids_BL: torch.Tensor) -> None:
        self._runner = runner
        self._ids_BL = ids_BL
        self._done: list[tuple[object, torch.Tensor]] = []

    def logits(self, route: Route) -> torch.Tensor:
        """The route's logits (B, L, V)."""
        return self._runner.head(route.head, self.states(route)[-1])

    def states(self, route: Route) -> list[torch.Tensor]:
        """What enters the route's first layer, and what each layer puts out (B, L, D)."""
        path: list[object] = [route.embedding, *route.layers]
        common = 0
        while common < min(len(path), len(self._done)) and self._done[common][0] == path[common]:
            common += 1
        del self._done[common:]
        for step in path[common:]:
            self._done.append((step, self._advance(step)))
        return [hidden_BLD for _, hidden_BLD in self._done]

    def _advance(self, step: object) -> torch.Tensor:
        if isinstance(step, LayerRef):
            return self._runner.step(step, self._done[-1][1])
        assert isinstance(step, Owner)
        return self._runner.embed(step, self._ids_BL)
