"""The low-rank change of a linear map, as vLLM's fused maps and this machine want it.

Legend: T token rows, I inputs and O outputs of a linear map on this rank, R rank.
"""

from collections.abc import Sequence
from itertools import accumulate, count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.nn import functional

from server.engine.compat import RowParallelLinear, dispatch_cpu_unquantized_gemm

_SHARD_PLACES = {"q": 0, "k": 1, "v": 2}

Shard = str | int | None
"""Which part of a fused linear map a checkpoint's map is; None: all of it."""


class LowRankDelta(nn.Module):
    """The low-rank change of one (possibly fused) linear map: y += B A x on some rows."""

    packed_a: "PackedMap | None" = None
    packed_b: Sequence["PackedMap"] = ()
    """One for each shard.  What is packed is empty in `a` and `b`."""

    def __init__(self, linear: Any, shards: Sequence[Shard], rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.shards = tuple(shards)
        self.linear = (linear,)  # in a tuple: the layer owns it, not this module
        ends = [0, *accumulate(linear.output_partition_sizes)]
        # Zeros: a shard of a lower rank than its neighbours is padded.
        self.a = nn.Parameter(
            torch.zeros(len(shards) * rank, linear.input_size_per_partition), requires_grad=False
        )
        self.b = nn.Parameter(torch.zeros(ends[-1], rank), requires_grad=False)
        self.b.output_dim = 0  # type: ignore[attr-defined]  # read by vLLM's weight loaders
        self.ranges = [self._range(shard, ends) for shard in shards]
        self.handle = torch.tensor(next(_HANDLES), device="cpu")
        _DELTAS[int(self.handle)] = self

    @staticmethod
    def _range(shard: Shard, ends: Sequence[int]) -> tuple[int, int]:
        if shard is None:
            return 0, ends[-1]
        place = _SHARD_PLACES[shard] if isinstance(shard, str) else shard
        return ends[place], ends[place + 1]

    def load(self, matrix: str, shard: Shard, value: torch.Tensor) -> None:
        """Take one of the checkpoint's matrices: `lora_A` (r, in) or `lora_B` (out, r)."""
        (linear,) = self.linear
        sums_over_ranks = isinstance(linear, RowParallelLinear)
        if matrix == "lora_A":
            if sums_over_ranks:
                width = self.a.shape[1]
                value = value.narrow(1, linear.tp_rank * width, width)
            start = self.shards.index(shard) * self.rank
            self.a.data[start : start + value.shape[0]].copy_(value)
            return
        padded = functional.pad(value, (0, self.rank - value.shape[1]))
        if sums_over_ranks:
            self.b.data.copy_(padded)
        else:
            linear.weight_loader(self.b, padded, *([] if shard is None else [shard]))

    def pack(self) -> None:
        """Lay the loaded matrices out for this CPU: vLLM's way for its linear maps.

        B in float32 stays with torch, whose product that adds is faster there, but as B.T.
        """
        self.packed_a = PackedMap(self.a.data)
        self.a.data = self.a.data.new_empty(0)
        if self.b.dtype == torch.float32:
            self.b.data = self.b.data.t().contiguous().t()
            return
        self.packed_b = [PackedMap(self.b.data[start:stop]) for start, stop in self.ranges]
        self.b.data = self.b.data.new_empty(0)

    def add_to(self, y_TO: torch.Tensor, x_TI: torch.Tensor, cut: int | torch.Tensor) -> None:
        """Add B A x to the outputs of the student's rows, in place."""
        if isinstance(cut, torch.Tensor):
            self._spread(y_TO, self._narrow(x_TI).masked_fill_(cut, 0))
        elif torch.compiler.is_compiling():
            # One opaque call: taken apart, each slice would be copied.
            torch.ops.boomerang.add_delta(y_TO, x_TI, self.handle, cut)
        else:
            self._spread(y_TO[cut:], self._narrow(x_TI[cut:]))

    def _narrow(self, x_TI: torch.Tensor) -> torch.Tensor:
        """A x."""
        return functional.linear(x_TI, self.a) if self.packed_a is None else self.packed_a(x_TI)

    def _spread(self, y_TO: torch.Tensor, hidden_TR: torch.Tensor) -> None:
        """y += B h, where each part of h goes to its own outputs."""
        parts = zip(self.ranges, hidden_TR.chunk(len(self.ranges), dim=1), strict=True)
        for index, ((start, stop), part_TR) in enumerate(parts):
            outputs = y_TO[:, start:stop]  # by name: `y[...] += z` would copy the slice once more
            if self.packed_b:
                outputs.add_(self.packed_b[index](part_TR))
            else:
                outputs.addmm_(part_TR, self.b[start:stop].t())


class PackedMap:
    """A matrix (O, I) in the layout that vLLM multiplies in on this CPU."""

    cpu_linear: Any
    """Set by vLLM: (rows, weight, bias) → outputs."""

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.weight = nn.Parameter(weight_OI.contiguous(), requires_grad=False)
        dispatch_cpu_unquantized_gemm(self, remove_weight=True)

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """(T, I) → (T, O)."""
        y_TO: torch.Tensor = self.cpu_linear(x_TI, self.weight, None)
        return y_TO


_HANDLES = count()
_DELTAS: WeakValueDictionary[int, LowRankDelta] = WeakValueDictionary()
"""Handle → delta.  A handle is a tensor, as a number would be baked into what is compiled: layers
that are alike have the same graph, and inductor compiles it once."""


def _add_delta(y_TO: torch.Tensor, x_TI: torch.Tensor, handle: torch.Tensor, first: int) -> None:
    """y[first:] += B A x[first:], with the delta of that handle."""
    _DELTAS[int(handle)].add_to(y_TO, x_TI, first)


torch.library.define(
    "boomerang::add_delta", "(Tensor(a!) y, Tensor x, Tensor handle, SymInt first) -> ()"
)
torch.library.impl("boomerang::add_delta", "default", _add_delta)
torch.library.register_fake("boomerang::add_delta", lambda *arguments: None)
