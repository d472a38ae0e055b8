"""The low-rank change of a linear map, plain and laid out for a CPU; no engine is started."""

from types import SimpleNamespace

import pytest
import torch

from boomerang_core.errors import CheckpointError
from server.engine.compat import LinearBase
from server.engine.deltas import LowRankDelta, Shard
from server.engine.lowrank import LowRankLayer

ROWS, INPUTS, RANK = 5, 32, 16
FUSED = {"q": 48, "k": 16, "v": 16}
EXACT = {torch.float32: 1e-5, torch.bfloat16: 0.05}
"""The largest error: outputs are of order 1, and bfloat16 rounds twice to 8 bits."""


def delta_of(shards: dict[Shard, int], dtype: torch.dtype) -> LowRankDelta:
    """A delta of random matrices for a map with those outputs."""
    linear = SimpleNamespace(
        output_partition_sizes=list(shards.values()), input_size_per_partition=INPUTS
    )
    delta = LowRankDelta(linear, list(shards), RANK).to(dtype)
    delta.a.data.normal_(std=INPUTS**-0.5)
    delta.b.data.normal_(std=RANK**-0.5)
    return delta


def dense(delta: LowRankDelta) -> torch.Tensor:
    """B A, part by part, in float64: (O, I)."""
    parts = delta.a.double().split(RANK)
    pairs = zip(delta.ranges, parts, strict=True)
    return torch.cat([delta.b[start:stop].double() @ a for (start, stop), a in pairs])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("shards", [FUSED, {None: 64}], ids=["fused", "single"])
@pytest.mark.parametrize(
    "cut",
    [0, 2, torch.tensor([[True], [False], [True], [False], [False]])],
    ids=["all", "some", "masked"],
)
def test_the_students_rows_get_the_change_and_no_other(
    shards: dict[Shard, int], dtype: torch.dtype, packed: bool, cut: int | torch.Tensor
) -> None:
    torch.manual_seed(0)
    delta = delta_of(shards, dtype)
    change = dense(delta)
    x = torch.randn(ROWS, INPUTS, dtype=dtype)
    before = torch.randn(ROWS, change.shape[0], dtype=dtype)
    teachers = cut.squeeze() if isinstance(cut, torch.Tensor) else torch.arange(ROWS) < cut
    if packed:
        delta.pack()
    y = before.clone()
    with torch.inference_mode():
        delta.add_to(y, x, cut)
    expected = before.double() + (x.double() @ change.t()) * ~teachers[:, None]
    assert torch.equal(y[teachers], before[teachers])
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=EXACT[dtype])


def test_a_packed_delta_keeps_no_second_copy() -> None:
    delta = delta_of(FUSED, torch.bfloat16)
    delta.pack()
    assert delta.a.numel() == delta.b.numel() == 0
    assert len(delta.packed_b) == len(FUSED)


class Fused(LinearBase):
    """A fused linear map of vLLM's, as far as a student's layer looks at it while it refuses."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.output_partition_sizes = [4, 4, 4]


@pytest.mark.parametrize(
    "others",
    [{}, {"k_proj.weight": (4, 4)}, {"k_proj.lora_A": (2, 4), "k_proj.lora_B": (4, 2)}],
    ids=["one alone", "two of three", "beside a delta"],
)
def test_a_part_of_a_fused_map_has_no_weights_of_its_own(
    others: dict[str, tuple[int, ...]],
) -> None:
    kept = torch.nn.Module()
    kept.qkv_proj = Fused()
    stacked = {f".{name}_proj": (".qkv_proj", name) for name in "qkv"}
    with pytest.raises(CheckpointError, match="for a part of qkv_proj only"):
        LowRankLayer(kept, {"q_proj.weight": (4, 4), **others}, stacked)
