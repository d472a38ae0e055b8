"""Low-rank students inside vLLM's own layers: deltas and norms on student rows only.

A kept layer runs once for all rows.  What differs between teacher and student rows is put *inside*
its linear maps and norms, so vLLM's layer code stays as it is, whatever the architecture:

* a linear map's `quant_method` adds B·A·x to the rows of the student (`deltas.py`).  That is before
  a row-parallel map sums over ranks, so the sum of the ranks' parts is right under tensor parallel;
* a norm is replaced by a pair of norms, one for each side's rows.

Legend: T token rows, I inputs and O outputs of a linear map on this rank.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from boomerang_core.errors import CheckpointError
from server.engine.compat import LinearMethodBase
from server.engine.deltas import LowRankDelta, Shard

_MATRICES = ("lora_A", "lora_B")


@dataclass
class RowSplit:
    """The block's cut (`blocks.Cut`) in this step; set before each layer call."""

    cut: int | torch.Tensor = 0


class DeltaLinearMethod(LinearMethodBase):
    """A linear map's own method, then the delta on the student's rows."""

    def __init__(self, inner: Any, delta: LowRankDelta, split: RowSplit) -> None:
        self.inner, self.delta, self.split = inner, delta, split
        self.uses_meta_device = inner.uses_meta_device
        self.requires_device_loading = inner.requires_device_loading
        self.supports_pre_processed_weights = inner.supports_pre_processed_weights

    def create_weights(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        """As the inner method; vLLM has called it before we wrap."""
        self.inner.create_weights(layer, *args, **kwargs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """As the inner method."""
        self.inner.process_weights_after_loading(layer)

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(T, I) → (T, O)."""
        y_TO: torch.Tensor = self.inner.apply(layer, x, bias)
        cut = self.split.cut
        if isinstance(cut, torch.Tensor) or cut < x.shape[0]:
            self.delta.add_to(y_TO, x, cut)
        return y_TO


class SplitNorm(nn.Module):
    """The teacher's norm on the teacher's rows, the student's on the rest.

    It registers the teacher's parameters under their own names, so checkpoints load unchanged.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, split: RowSplit) -> None:
        super().__init__()
        for name, parameter in teacher.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.sides = (teacher, student)  # a tuple registers nothing twice
        self.split = split

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """x (T, …) → same shape; with a residual, the pair (normed sum, sum) as vLLM's norms."""
        teacher, student = self.sides
        first = self.split.cut
        if isinstance(first, torch.Tensor):
            return self._masked(first, x, residual)
        if first >= x.shape[0]:
            return teacher(x) if residual is None else teacher(x, residual)
        if first == 0:
            return student(x) if residual is None else student(x, residual)
        if residual is None:
            return torch.cat([teacher(x[:first]), student(x[first:])])
        upper = teacher(x[:first], residual[:first])
        lower = student(x[first:], residual[first:])
        return torch.cat([upper[0], lower[0]]), torch.cat([upper[1], lower[1]])

    def _masked(
        self, teachers: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None
    ) -> Any:
        """Both norms on every row; the sum with the residual is the same for both."""
        teacher, student = self.sides
        mask = teachers.view(-1, *(1 for _ in x.shape[1:]))
        if residual is None:
            return torch.where(mask, teacher(x), student(x))
        ours, summed = teacher(x, residual)
        return torch.where(mask, ours, student(summed)), summed


@dataclass
class _Group:
    """The checkpoint's maps that vLLM fuses into one."""

    shards: list[Shard] = field(default_factory=list)
    rank: int = 0


class LowRankLayer(nn.Module):
    """The student's tensors of one block, built into the kept teacher layer."""

    def __init__(
        self,
        kept: nn.Module,
        shapes: Mapping[str, tuple[int, ...]],
        stacked: Mapping[str, tuple[str, Any]],
    ) -> None:
        """`shapes`: name within the layer → shape; `stacked`: vLLM's table of fused maps."""
        super().__init__()
        self.split = RowSplit()
        self.stacked = stacked
        self.deltas = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for path, group in self._groups(shapes).items():
            linear = kept.get_submodule(path)
            delta = LowRankDelta(linear, group.shards, group.rank)
            linear.quant_method = DeltaLinearMethod(linear.quant_method, delta, self.split)
            self.deltas[_key(path)] = delta
        for path in sorted(_norm_paths(shapes)):
            teacher = kept.get_submodule(path)
            self.norms[_key(path)] = student = copy.deepcopy(teacher)
            parent, _, name = path.rpartition(".")
            setattr(kept.get_submodule(parent), name, SplitNorm(teacher, student, self.split))

    def _groups(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Group]:
        groups: dict[str, _Group] = {}
        for name, shape in shapes.items():
            path, _, matrix = name.rpartition(".")
            if matrix == "lora_A":
                fused, shard = self._fused(path)
                group = groups.setdefault(fused, _Group())
                group.shards.append(shard)
                group.rank = max(group.rank, shape[0])
        return groups

    def _fused(self, path: str) -> tuple[str, Shard]:
        """A checkpoint's linear map → (vLLM's map, which part of it)."""
        for theirs, (ours, shard) in self.stacked.items():
            if f".{path}".endswith(theirs):
                return f".{path}".replace(theirs, ours)[1:], shard
        return path, None

    def pack(self) -> None:
        """All tensors are loaded: on a CPU, lay the deltas out for it."""
        for delta in self.deltas.values():
            assert isinstance(delta, LowRankDelta)
            if delta.a.device.type == "cpu":
                delta.pack()

    def load(self, name: str, value: torch.Tensor) -> None:
        """Take one tensor of this block by its name within the layer."""
        path, _, last = name.rpartition(".")
        if last in _MATRICES:
            fused, shard = self._fused(path)
            delta = self.deltas[_key(fused)]
            assert isinstance(delta, LowRankDelta)
            delta.load(last, shard, value)
            return
        parameter = self.norms[_key(path)].get_parameter(last)
        if parameter.shape != value.shape:
            raise CheckpointError(f"{name} has shape {tuple(value.shape)}, not {parameter.shape}")
        parameter.data.copy_(value)


def _key(path: str) -> str:
    return path.replace(".", "/")  # a ModuleDict's keys hold no dot


def _norm_paths(names: Iterable[str]) -> set[str]:
    split = (name.rpartition(".") for name in names)
    return {path for path, _, last in split if last not in _MATRICES}


def within_layer(name: str) -> tuple[int, str]:
    """`layers.3.mlp.up_proj.lora_A` → (3, `mlp.up_proj.lora_A`)."""
    parts = name.split(".", 2)
    if len(parts) != 3 or parts[0] != "layers" or not parts[1].isdecimal():
        raise CheckpointError(f"{name} is not a tensor of a low-rank student")
    return int(parts[1]), parts[2]
