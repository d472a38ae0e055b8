"""Compiled segments: what runs between two changes of side, one compiled function for each side.

Consecutive blocks that every size takes from the same party form a segment.  Its sides are traced
apart, each with the side baked in, so no route is: a step picks functions, one a segment.

Guards are left out: what a trace assumes (modules, weights, widths) changes only with the sizes
that are held, and weights that go take their traces with them (`drop`).  Every function has a code
object of its own, for Dynamo keeps its traces with those.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import FunctionType
from typing import Any

import torch
from torch import nn

from boomerang_core.ladder import ALWAYS_TEACHER
from boomerang_core.memory_plan import Span
from server.engine.blocks import BlockRun, Cut, LowRankBlock, State, join
from server.engine.compat import CustomOp, ir_ops, set_forward_context
from server.engine.plan import Side

Body = Callable[..., State]

NOBODY, EVERYBODY = 0, sys.maxsize
"""Where the student's rows begin when all rows are the student's, or the teacher's."""

TRACED_ROWS = 64
"""Rows of the tensors that functions are traced with; they run on any number."""

_OPTIONS: Mapping[str, Any] = {
    "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
    "size_asserts": False,
}


class CompiledSegment:
    """Consecutive blocks that change sides together."""

    def __init__(self, name: str, rank: int, blocks: Sequence[BlockRun]) -> None:
        self.name, self.rank, self.blocks = name, rank, tuple(blocks)
        self._one_pass = any(isinstance(block, LowRankBlock) for block in blocks)
        self._functions: dict[Side, Body] = {}

    def run(self, positions: torch.Tensor, state: State, cut: Cut) -> State:
        """Run the segment: rows before the cut are the teacher's, the rest the student's."""
        assert isinstance(cut, int), "nothing is compiled for masks"
        if self.rank == ALWAYS_TEACHER or cut >= state[0].shape[0]:
            return self._functions[Side.TEACHER](positions, *state)
        if cut == 0:
            return self._functions[Side.STUDENT](positions, *state)
        if self._one_pass:
            return self._functions[Side.ALL](positions[:cut], positions, *state)
        upper = self._functions[Side.TEACHER](positions[:cut], *(part[:cut] for part in state))
        lower = self._functions[Side.STUDENT](positions[cut:], *(part[cut:] for part in state))
        return join(upper, lower)

    def drop(self, span: Span) -> None:
        """Drop what no size of that span runs."""
        wanted = self._sides(span)
        self._functions = {s: body for s, body in self._functions.items() if s in wanted}

    def trace(self, span: Span, positions: torch.Tensor, state: State) -> State:
        """Trace what sizes of that span run and is not there yet; the state that comes out."""
        wanted = self._sides(span)
        for side in wanted - self._functions.keys():
            body = self._compiled(side)
            self._call_first(body, side, positions, state)
            self._functions[side] = body  # only now: one that failed must not count as traced
        return self.run(positions, state, EVERYBODY if Side.TEACHER in wanted else NOBODY)

    def _sides(self, span: Span) -> set[Side]:
        sides = {Side.TEACHER} if span.largest > self.rank else set()
        if span.smallest <= self.rank:
            sides.add(Side.STUDENT)
        if len(sides) == 2 and self._one_pass:
            sides.add(Side.ALL)
        return sides

    def _compiled(self, side: Side) -> Body:
        blocks = self.blocks

        def both(upper: torch.Tensor, positions: torch.Tensor, *state: torch.Tensor) -> State:
            for block in blocks:
                state = block.run(positions, state, upper.shape[0])
            return state

        first = EVERYBODY if side is Side.TEACHER else NOBODY

        def one(positions: torch.Tensor, *state: torch.Tensor) -> State:
            for block in blocks:
                state = block.run(positions, state, first)
            return state

        body = _own_code(both if side is Side.ALL else one, f"{self.name}_{side}")
        compiled: Body = torch.compile(body, fullgraph=True, dynamic=False, options=dict(_OPTIONS))
        return compiled

    def _call_first(self, body: Body, side: Side, positions: torch.Tensor, state: State) -> None:
        rows = (positions, *state)
        if side is Side.ALL:
            rows = (positions[: TRACED_ROWS // 4], *rows)
        for tensor in rows:
            torch._dynamo.mark_dynamic(tensor, 0)
        body(*rows)


def segments_of(blocks: Sequence[BlockRun], ranks: Sequence[int]) -> Mapping[int, CompiledSegment]:
    """A model's segments, each by its first block."""
    segments = {}
    for rank, places in groupby(range(len(blocks)), key=lambda place: ranks[place]):
        run = list(places)
        name = f"blocks_{run[0]}_to_{run[-1]}"
        segments[run[0]] = CompiledSegment(name, rank, [blocks[place] for place in run])
    return segments


@contextmanager
def plain_operators(model: nn.Module) -> Iterator[None]:
    """Norms, activations and rotations of the model as plain operators.

    vLLM's kernels for them are closed to inductor, which fuses plain ones with their neighbours.  A
    trace keeps what it saw in here, since guards are left out, and eager layers keep the kernels.
    """
    operators = [module for module in model.modules() if isinstance(module, CustomOp)]
    usual = [operator._forward_method for operator in operators]
    norm, added_norm = ir_ops.rms_norm, ir_ops.fused_add_rms_norm
    with norm.set_priority(["native"]), added_norm.set_priority(["native"]):
        for operator in operators:
            operator._forward_method = operator.forward_native
        try:
            yield
        finally:
            for operator, method in zip(operators, usual, strict=True):
                operator._forward_method = method


@torch.inference_mode()  # as vLLM's steps: a trace of another mode could not run in them
def trace(
    model: nn.Module, segments: Iterable[CompiledSegment], span: Span, vllm_config: Any
) -> float:
    """Compile, one after another, what sizes of that span run; the seconds that it took."""
    begun = time.perf_counter()
    config, device = vllm_config.model_config, vllm_config.device_config.device
    positions = torch.zeros(TRACED_ROWS, dtype=torch.int64, device=device)
    hidden = torch.zeros(TRACED_ROWS, config.get_hidden_size(), dtype=config.dtype, device=device)
    state: State = (hidden,)
    context = set_forward_context(None, vllm_config, num_tokens=TRACED_ROWS, slot_mapping={})
    with context, plain_operators(model):
        for segment in segments:
            state = segment.trace(span, positions, state)
    return time.perf_counter() - begun


def _own_code(body: FunctionType | Body, name: str) -> Body:
    """The function again, with a code object that no other function has."""
    assert isinstance(body, FunctionType)
    code = body.__code__.replace(co_name=name)
    return FunctionType(code, body.__globals__, name, body.__defaults__, body.__closure__)
