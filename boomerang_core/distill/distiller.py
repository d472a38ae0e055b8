"""Teacher and student as one module: token rows and a size → the terms of the objective.

Shapes: B rows, L tokens a row, T scored tokens, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from boomerang_core.assemble import assemble
from boomerang_core.distill.objective import HeadInput, HeadTerms, Objective, distance
from boomerang_core.distill.sharding import layer_units, parameter_owners
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign, LayerRef, Owner, Route, build_route
from boomerang_core.route_runner import RouteRunner
from boomerang_core.student import Student

HEAD_TERMS = ("cross_entropy", "kl")
EMBEDDING = -1
States = dict[int, torch.Tensor]
"""Hidden states (B, L, D) at the end of each block by its index, and behind the embedding."""


class Distiller(nn.Module):
    """Runs the teacher, then a size, and compares them.

    Its submodules are `units` of layers and `ends`: every module with parameters, each once.
    """

    def __init__(
        self,
        teacher: Any,
        student: Student,
        design: FamilyDesign,
        objective: Objective,
        row_length: int,
        compiled: bool = False,
    ) -> None:
        """`student`'s trainable tensors are parameters in float32 on the teacher's device."""
        super().__init__()
        model = assemble(teacher, student, build_route(design, 0))
        runner, own = (LayerRunner(each, row_length, compiled) for each in (teacher, model))
        self.units, (runner.layers, own.layers) = layer_units(runner.layers, own.layers)
        path = student.row.layers
        self.ends = nn.ModuleList(
            owner for each in (teacher, model) for owner in parameter_owners(each, path)
        )
        self.objective = objective
        self._terms = HeadTerms(objective, compiled)
        self._runners = {Owner.TEACHER: runner, Owner.STUDENT: own}
        self._routed = RouteRunner(runner, own, design.block_map)
        self._blocks = design.block_map
        self._routes = [build_route(design, size) for size in range(design.ladder.num_sizes)]

    def forward(self, ids_BL: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """`terms`: the weighted loss, and what it is made of, without gradient; token means.

        The last token of a row has no next one and is not scored.
        """
        route = self._routes[size]
        teacher_states, teacher_BLD = self._teacher(ids_BL)
        states, model_BLD = self._model(route, ids_BL)
        by = self.objective.aligned_by
        distances = [distance(state, teacher_states[at], by) for at, state in states.items()]
        alignment = torch.stack(distances).mean() if distances else model_BLD.new_zeros(())
        found = {"loss": self.objective.alignment * alignment, "alignment": alignment.detach()}
        if self.objective.needs_head:
            head_loss, *head_terms = self._terms(
                self._head_input(route.head, model_BLD),
                self._head_input(Owner.TEACHER, teacher_BLD),
                ids_BL[:, 1:].flatten(),
            )
            found["loss"] = head_loss + found["loss"]
            found |= zip(HEAD_TERMS, head_terms, strict=True)
        return {name: found[name] for name in self.terms}

    @property
    def terms(self) -> tuple[str, ...]:
        """What a step finds, by name; a head of which nothing is asked is not computed."""
        return ("loss", *(HEAD_TERMS if self.objective.needs_head else ()), "alignment")

    def learns(self, size: int) -> bool:
        """Whether a size's loss has a gradient: not where all that decides it is the teacher's."""
        route = self._routes[size]
        owners = {route.embedding, *(ref.owner for ref in route.layers)}
        return Owner.STUDENT in (owners | {route.head} if self.objective.needs_head else owners)

    def _head_input(self, owner: Owner, hidden_BLD: torch.Tensor) -> HeadInput:
        runner = self._runners[owner]
        learning = tuple(weight for weight in runner.head_parameters() if weight.requires_grad)
        return HeadInput(runner.head, hidden_BLD[:, :-1].flatten(0, 1), learning)

    @torch.no_grad()
    def _teacher(self, ids_BL: torch.Tensor) -> tuple[States, torch.Tensor]:
        """The teacher's states, and the last one."""
        hidden_BLD = self._routed.embed(Owner.TEACHER, ids_BL)
        states = {EMBEDDING: hidden_BLD}
        for index, block in enumerate(self._blocks):
            for layer in block.layers:
                hidden_BLD = self._routed.step(LayerRef(Owner.TEACHER, layer), hidden_BLD)
            states[index] = hidden_BLD
        return states, hidden_BLD

    def _model(self, route: Route, ids_BL: torch.Tensor) -> tuple[States, torch.Tensor]:
        """The states that the student makes on a route, and the last one."""
        hidden_BLD = self._routed.embed(route.embedding, ids_BL)
        states = {EMBEDDING: hidden_BLD} if route.embedding is Owner.STUDENT else {}
        for ref in route.layers:
            hidden_BLD = self._routed.step(ref, hidden_BLD)
            if ref.owner is Owner.STUDENT:
                states[ref.index] = hidden_BLD
        return states, hidden_BLD
