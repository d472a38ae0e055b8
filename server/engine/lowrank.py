"""Low-rank students inside vLLM's own layers: deltas and norms on student rows only.

A kept layer runs once for all rows.  What differs between teacher and student rows is put *inside*
its linear maps and norms, so vLLM's layer code stays as it is, whatever the architecture:

* a linear map's `quant_method` adds B·A·x to the rows of the student (`deltas.py`), or multiplies
  those rows by the student's own weights, where its delta was merged.  That is before a
  row-parallel map sums over ranks, so the sum of the ranks' parts is right under tensor parallel;
* a norm is replaced by a pair of norms, one for each side's rows.

Legend: T token rows, I inputs and O outputs of a linear map on this rank.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from boomerang_core.errors import CheckpointError
from server.engine.compat import LinearBase, LinearMethodBase
from server.engine.deltas import LowRankDelta, Shard

_MATRICES = ("lora_A", "lora_B")


@dataclass
class RowSplit:
    """The block's cut (`blocks.Cut`) in this step; set before each layer call."""

    cut: int | torch.Tensor = 0


class SplitLinearMethod(LinearMethodBase):
    """A linear map's own method, and something else on the student's rows."""

    def __init__(self, inner: Any, split: RowSplit) -> None:
        self.inner, self.split = inner, split
        # What vLLM's loader asks a method is the inner one's to say.
        self.uses_meta_device = inner.uses_meta_device
        self.requires_device_loading = inner.requires_device_loading
        self.supports_pre_processed_weights = inner.supports_pre_processed_weights

    def create_weights(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        """As the inner method; vLLM has called it before we wrap."""
        self.inner.create_weights(layer, *args, **kwargs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """As the inner method."""
        self.inner.process_weights_after_loading(layer)


class DeltaLinearMethod(SplitLinearMethod):
    """A linear map's own method, then the delta on the student's rows."""

    def __init__(self, inner: Any, delta: LowRankDelta, split: RowSplit) -> None:
        super().__init__(inner, split)
        self.delta = delta

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(T, I) → (T, O)."""
        y_TO: torch.Tensor = self.inner.apply(layer, x, bias)
        cut = self.split.cut
        if isinstance(cut, torch.Tensor) or cut < x.shape[0]:
            self.delta.add_to(y_TO, x, cut)
        return y_TO


class MergedMap(nn.Module):
    """The student's own weights of one (possibly fused) linear map, held as vLLM holds them."""

    def __init__(self, linear: Any, shards: Sequence[Shard]) -> None:
        super().__init__()
        self.shards = tuple(shards)
        self.quant_method = linear.quant_method  # by which vLLM finds and packs the weights
        self.quant_method.create_weights(
            self,
            linear.input_size_per_partition,
            linear.output_partition_sizes,
            linear.input_size,
            linear.output_size,
            linear.params_dtype,
            weight_loader=linear.weight.weight_loader,
        )

    def load(self, shard: Shard, value: torch.Tensor) -> None:
        """Take the weights (out, in) of one of the checkpoint's maps."""
        weight: Any = self.weight
        weight.weight_loader(weight, value, *([] if shard is None else [shard]))

    def forward(self, x_TI: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(T, I) → (T, O), on this rank."""
        y_TO: torch.Tensor = self.quant_method.apply(self, x_TI, bias)
        return y_TO


class MergedLinearMethod(SplitLinearMethod):
    """A linear map's own method on the teacher's rows, the student's weights on hers."""

    def __init__(self, inner: Any, merged: MergedMap, split: RowSplit) -> None:
        super().__init__(inner, split)
        self.merged = (merged,)  # in a tuple: the student's layer owns it

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(T, I) → (T, O)."""
        (merged,), cut = self.merged, self.split.cut
        if isinstance(cut, torch.Tensor):
            return torch.where(cut, self.inner.apply(layer, x, bias), merged(x, bias))
        if cut >= x.shape[0]:
            whole: torch.Tensor = self.inner.apply(layer, x, bias)
            return whole
        if cut == 0:
            own: torch.Tensor = merged(x, bias)
            return own
        return torch.cat([self.inner.apply(layer, x[:cut], bias), merged(x[cut:], bias)])


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
    """The checkpoint's maps that vLLM fuses into one; a rank of 0: the student's own weights."""

    shards: list[Shard] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def is_whole(self, linear: Any) -> bool:
        """Whether they are all that vLLM's map is made of."""
        return self.shards == [None] or len(self.shards) == len(linear.output_partition_sizes)


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
        self.names = frozenset(shapes)
        self.deltas = nn.ModuleDict()
        self.merged = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        groups = self._groups(kept, shapes)
        for path, group in groups.items():
            self._build_map(path, kept.get_submodule(path), group)
        paths = {self._fused(name.rpartition(".")[0])[0] for name in shapes}
        for path in sorted(paths - groups.keys()):
            teacher = kept.get_submodule(path)
            self.norms[_key(path)] = student = copy.deepcopy(teacher)
            parent, _, name = path.rpartition(".")
            setattr(kept.get_submodule(parent), name, SplitNorm(teacher, student, self.split))

    def _build_map(self, path: str, linear: Any, group: _Group) -> None:
        """Put the student's part into a linear map of the kept layer."""
        if all(group.ranks):
            self.deltas[_key(path)] = delta = LowRankDelta(linear, group.shards, max(group.ranks))
            linear.quant_method = DeltaLinearMethod(linear.quant_method, delta, self.split)
        elif not any(group.ranks) and group.is_whole(linear):
            self.merged[_key(path)] = merged = MergedMap(linear, group.shards)
            linear.quant_method = MergedLinearMethod(linear.quant_method, merged, self.split)
        else:
            raise CheckpointError(
                f"the student has weights of its own for a part of {path} only, which is one map"
            )

    def _groups(self, kept: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Group]:
        groups: dict[str, _Group] = {}
        for name, shape in shapes.items():
            path, _, last = name.rpartition(".")
            fused, shard = self._fused(path)
            if last != "lora_B" and isinstance(kept.get_submodule(fused), LinearBase):
                group = groups.setdefault(fused, _Group())
                group.shards.append(shard)
                group.ranks.append(shape[0] if last == "lora_A" else 0)
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
        fused, shard = self._fused(path)
        if last in _MATRICES:
            delta = self.deltas[_key(fused)]
            assert isinstance(delta, LowRankDelta)
            delta.load(last, shard, value)
            return
        if _key(fused) in self.merged:
            merged = self.merged[_key(fused)]
            assert isinstance(merged, MergedMap)
            merged.load(shard, value)
            return
        parameter = self.norms[_key(path)].get_parameter(last)
        if parameter.shape != value.shape:
            raise CheckpointError(f"{name} has shape {tuple(value.shape)}, not {parameter.shape}")
        parameter.data.copy_(value)


def _key(path: str) -> str:
    return path.replace(".", "/")  # a ModuleDict's keys hold no dot


def within_layer(name: str) -> tuple[int, str]:
    """`layers.3.mlp.up_proj.lora_A` → (3, `mlp.up_proj.lora_A`)."""
    parts = name.split(".", 2)
    if len(parts) != 3 or parts[0] != "layers" or not parts[1].isdecimal():
        raise CheckpointError(f"{name} is not a tensor of a low-rank student")
    return int(parts[1]), parts[2]


def load_layers(layers: Mapping[str, Any], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load layers by their names within the student, `layers.3`, and lay them out to run.

    Raises `CheckpointError` for a tensor that no layer has, or where one of a layer's is missing.
    """
    read: dict[str, set[str]] = {name: set() for name in layers}
    for full_name, value in tensors:
        index, rest = within_layer(full_name)
        name = f"layers.{index}"
        if name not in layers or rest not in layers[name].names:
            raise CheckpointError(f"{full_name} is no tensor of this student")
        layers[name].load(rest, value)
        read[name].add(rest)
    for name, layer in layers.items():
        if gone := layer.names - read[name]:
            raise CheckpointError(f"the student no longer holds {name}.{min(gone)}")
        layer.pack()
