"""How a block runs in one step: three kinds behind one interface.

The state that flows through the layers is a tuple of (T, hidden) tensors: hidden and residual
where vLLM's layers keep them apart, hidden alone otherwise (and before the first layer).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from boomerang_core.blocks import Block
from server.engine.compat import AttentionLayerBase
from server.engine.lowrank import LowRankLayer
from server.engine.plan import Side

State = tuple[torch.Tensor, ...]

Cut = int | torch.Tensor
"""Whose rows are whose: rows before a number are the teacher's, the rest the student's; or, where
the step is a CUDA graph's and its sizes are data, a mask (T, 1), true in the teacher's rows."""


@dataclass(frozen=True)
class LayerCall:
    """Calls a decoder layer in its architecture's way."""

    residual: bool

    def __call__(self, layer: nn.Module, positions: torch.Tensor, state: State) -> State:
        if not self.residual:
            return (layer(*state),)
        residual = state[1] if len(state) > 1 else None
        return tuple(layer(positions, state[0], residual))

    def run(self, layers: Sequence[nn.Module], positions: torch.Tensor, state: State) -> State:
        """Run layers one after another on the same rows."""
        for layer in layers:
            state = self(layer, positions, state)
        return state


class Run(Protocol):
    """What runs in one step: a block, or several compiled together (`segments.py`)."""

    def run(self, positions: torch.Tensor, state: State, cut: Cut) -> State:
        """Run it on rows that are cut so."""


class BlockRun(Run, Protocol):
    """A block of the routed model."""

    def attention(self) -> Iterator[tuple[str, Side]]:
        """Each attention layer of the block with the rows it runs on."""

    def kv_alias(self) -> Mapping[str, str]:
        """Attention layer → the attention layer whose KV pages it uses."""


def attention_name(layer: nn.Module) -> str:
    """The name under which vLLM knows a decoder layer's attention."""
    return next(
        str(module.layer_name)
        for module in layer.modules()
        if isinstance(module, AttentionLayerBase)
    )


def _on_teacher_rows(
    call: LayerCall,
    layers: Sequence[nn.Module],
    positions: torch.Tensor,
    state: State,
    cut: Cut,
) -> State:
    """Run layers on the teacher's rows and pass the other rows by."""
    if not layers:
        return state
    if isinstance(cut, torch.Tensor):
        return pick(cut, call.run(layers, positions, copied(state)), state)
    if cut == 0:
        return state
    if cut >= state[0].shape[0]:
        return call.run(layers, positions, state)
    upper = call.run(layers, positions[:cut], tuple(part[:cut] for part in state))
    lower = tuple(part[cut:] for part in state)
    return join(upper, lower)


def join(upper: State, lower: State) -> State:
    """Put the two sides' rows together again."""
    return tuple(torch.cat(parts) for parts in zip(*_as_wide(upper, lower), strict=True))


def pick(teachers: torch.Tensor, upper: State, lower: State) -> State:
    """Of two states of the same rows, the teacher's in his rows and the student's in hers."""
    pairs = zip(*_as_wide(upper, lower), strict=True)
    return tuple(torch.where(teachers, ours, theirs) for ours, theirs in pairs)


def copied(state: State) -> State:
    """A copy to run layers on: vLLM's norms write into what they are given."""
    return tuple(part.clone() for part in state)


def _as_wide(upper: State, lower: State) -> list[State]:
    """Both sides with a residual, where one has: before a layer it is zero, and hidden is all."""
    width = max(len(upper), len(lower))
    return [
        side if len(side) == width else (torch.zeros_like(side[0]), side[0])
        for side in (upper, lower)
    ]


@dataclass(frozen=True)
class SharedBlock:
    """A one-layer block whose layer is the teacher's at every size: it runs once, for all rows."""

    call: LayerCall
    layer: nn.Module

    def run(self, positions: torch.Tensor, state: State, cut: Cut) -> State:
        """All rows, wherever the cut is."""
        return self.call(self.layer, positions, state)

    def attention(self) -> Iterator[tuple[str, Side]]:
        """The one layer, on all rows."""
        yield attention_name(self.layer), Side.ALL

    def kv_alias(self) -> Mapping[str, str]:
        """None."""
        return {}


@dataclass(frozen=True)
class FullBlock:
    """The teacher's layers on one side, a student layer with its own weights on the other."""

    call: LayerCall
    teacher: tuple[nn.Module, ...]
    student: nn.Module
    kept: nn.Module

    def run(self, positions: torch.Tensor, state: State, cut: Cut) -> State:
        """Each side on its own rows; both on all, where a mask says whose they are."""
        if isinstance(cut, torch.Tensor):
            upper = self.call.run(self.teacher, positions, copied(state))
            return pick(cut, upper, self.call(self.student, positions, state))
        if cut >= state[0].shape[0]:
            return self.call.run(self.teacher, positions, state)
        if cut == 0:
            return self.call(self.student, positions, state)
        upper = self.call.run(self.teacher, positions[:cut], tuple(part[:cut] for part in state))
        lower = self.call(self.student, positions[cut:], tuple(part[cut:] for part in state))
        return join(upper, lower)

    def attention(self) -> Iterator[tuple[str, Side]]:
        """Teacher layers on teacher rows, the student's layer on student rows."""
        for layer in self.teacher:
            yield attention_name(layer), Side.TEACHER
        yield attention_name(self.student), Side.STUDENT

    def kv_alias(self) -> Mapping[str, str]:
        """The student's layer writes into the kept layer's pages: no request runs both."""
        return {attention_name(self.student): attention_name(self.kept)}


@dataclass(frozen=True)
class LowRankBlock:
    """The kept layer once for all rows, its neighbours on teacher rows only."""

    call: LayerCall
    before: tuple[nn.Module, ...]
    kept: nn.Module
    after: tuple[nn.Module, ...]
    student: LowRankLayer

    def run(self, positions: torch.Tensor, state: State, cut: Cut) -> State:
        """Skipped layers before, the kept layer, skipped layers after."""
        state = _on_teacher_rows(self.call, self.before, positions, state, cut)
        self.student.split.cut = cut
        state = self.call(self.kept, positions, state)
        return _on_teacher_rows(self.call, self.after, positions, state, cut)

    def attention(self) -> Iterator[tuple[str, Side]]:
        """The kept layer on all rows, the others on teacher rows."""
        for layer in (*self.before, *self.after):
            yield attention_name(layer), Side.TEACHER
        yield attention_name(self.kept), Side.ALL

    def kv_alias(self) -> Mapping[str, str]:
        """None: both sides write into the kept layer's own pages."""
        return {}


def build_block(
    block: Block, call: LayerCall, teacher: Sequence[nn.Module], student: Any
) -> BlockRun:
    """The run of one block.

    Args:
        block: the block.
        call: how its layers are called.
        teacher: all teacher layers.
        student: the block's student layer (full), `LowRankLayer` (low-rank), or None (shared).
    """
    if block.shared:
        return SharedBlock(call, teacher[block.start])
    layers = tuple(teacher[index] for index in block.layers)
    kept = block.kept - block.start
    if isinstance(student, LowRankLayer):
        return LowRankBlock(call, layers[:kept], layers[kept], layers[kept + 1 :], student)
    return FullBlock(call, layers, student, layers[kept])
