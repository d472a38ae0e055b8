"""What a server must hold to offer a run of sizes, and how long a run a memory budget allows.

Sizes are nested: the sizes from one to another need what these two need.  So the server holds the
smallest offered size and, for as long as they fit, the parts that each next size adds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod

from boomerang_core.architectures import ARCHITECTURES
from boomerang_core.errors import BudgetError
from boomerang_core.family import Family
from boomerang_core.footprint import ModelShape
from boomerang_core.headers import tensor_shapes
from boomerang_core.precision import built_for_cpu
from boomerang_core.route import FamilyDesign, LayerRef, Owner, StudentKind, build_route
from boomerang_core.sizes import format_bytes

LEAST_KV_BYTES = 256 << 20
DEFAULT_CONTEXT, DEFAULT_REQUESTS = 2048, 32
"""What a server takes where nothing is stated: tokens of a request, requests at the same time."""
LEAST_CONTEXT = 16
"""The fewest tokens of a request that a server can be told."""
KV_BLOCK = 128
"""Tokens of the largest block in which vLLM hands out the KV cache; it keeps one for itself."""
VOCABULARY_MULTIPLE = 64
"""vLLM pads the rows of vocabulary matrices to a multiple of this."""


class End(StrEnum):
    """The two ends of a model; `head` is the final norm and the LM head."""

    EMBEDDING = "embedding"
    HEAD = "head"


@dataclass(frozen=True)
class EndRef:
    """An end of the teacher or of the student."""

    owner: Owner
    end: End


Part = LayerRef | EndRef
"""What is loaded and released as a whole."""


@dataclass(frozen=True)
class Span:
    """The sizes from `smallest` to `largest`, both of them included."""

    smallest: int
    largest: int

    def __post_init__(self) -> None:
        assert 0 <= self.smallest <= self.largest

    def __contains__(self, size: int) -> bool:
        return self.smallest <= size <= self.largest


def whole(design: FamilyDesign) -> Span:
    """Every size of a ladder."""
    return Span(0, design.ladder.teacher_size)


def parts_of(design: FamilyDesign, span: Span) -> frozenset[Part]:
    """The parts that some size of the span runs.

    A low-rank student's layer runs inside the teacher layer that its block keeps.
    """
    parts: set[Part] = set()
    for size in (span.smallest, span.largest):
        route = build_route(design, size)
        parts |= {*route.layers, EndRef(route.embedding, End.EMBEDDING)}
        parts.add(EndRef(route.head, End.HEAD))
    if design.kind is StudentKind.LOWRANK:
        parts |= {
            LayerRef(Owner.TEACHER, design.block_map[part.index].kept)
            for part in parts
            if isinstance(part, LayerRef) and part.owner is Owner.STUDENT
        }
    return frozenset(parts)


@dataclass(frozen=True)
class EndParams:
    """Parameters of an owner's ends; `tied`: embedding and head share one matrix."""

    matrix: int
    positions: int
    norm: int
    tied: bool

    def held(self, ends: Iterable[End]) -> int:
        """Parameters of those ends."""
        given = set(ends)
        matrices = min(len(given), 1) if self.tied else len(given)
        positions = self.positions if End.EMBEDDING in given else 0
        return matrices * self.matrix + positions + (self.norm if End.HEAD in given else 0)


@dataclass(frozen=True)
class Residents:
    """Bytes that a server holds, by the sizes that it offers.

    The student's layers are counted as they lie in its file, unless its deltas are merged: where
    the low-rank maps that vLLM fuses differ in rank, the padding to the largest comes on top.
    """

    design: FamilyDesign
    teacher_layer: int
    student_layers: Mapping[int, int]
    ends: Mapping[Owner, EndParams]
    bytes_per_param: int

    @classmethod
    def of(cls, family: Family) -> "Residents":
        """Those of a family; reads the header of the student's file.

        Raises `CheckpointError` where that is not a safetensors file.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(family.student_dir.glob("*.safetensors")):
            shapes |= tensor_shapes(file)
        row, model = ARCHITECTURES[family.architecture], family.shape
        if family.merges_deltas:
            own = (index for index, block in enumerate(family.design.block_map) if not block.shared)
            layers = dict.fromkeys(own, model.layer_params)
        else:
            layers = _stored_layers(shapes, f"{row.layers}.")
        ends = {
            Owner.TEACHER: _end_params(model, model.tied),
            Owner.STUDENT: _end_params(model, f"{row.head}.weight" not in shapes),
        }
        return cls(family.design, model.layer_params, layers, ends, model.bytes_per_param)

    def weight_bytes(self, span: Span) -> int:
        """Bytes of weights for every size of the span, each tensor once."""
        params, ends = 0, set()
        for part in parts_of(self.design, span):
            if isinstance(part, EndRef):
                ends.add(part)
            elif part.owner is Owner.TEACHER:
                params += self.teacher_layer
            else:
                params += self.student_layers.get(part.index, 0)
        for owner, counts in self.ends.items():
            params += counts.held(part.end for part in ends if part.owner is owner)
        return params * self.bytes_per_param


def _stored_layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[int, int]:
    """Block → parameters of the student's layer in the file."""
    layers: dict[int, int] = {}
    for name, shape in shapes.items():
        if name.startswith(prefix):
            block = int(name.removeprefix(prefix).partition(".")[0])
            layers[block] = layers.get(block, 0) + prod(shape)
    return layers


def _end_params(shape: ModelShape, tied: bool) -> EndParams:
    rows = -(-shape.head_params // shape.hidden_size)
    padded = -(-rows // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    positions = shape.embedding_params - shape.head_params
    return EndParams(padded * shape.hidden_size, positions, shape.norm_params, tied)


def default_kv_bytes(
    family: Family,
    budget: int | None,
    per_token: int,
    context: int = DEFAULT_CONTEXT,
    requests: int = DEFAULT_REQUESTS,
) -> int:
    """A server's KV cache where none is stated.

    Args:
        family: with the footprints of the served format.
        budget: the server's memory budget; None where it has none.
        per_token: bytes of a token at the teacher's size.
        context: the greatest length of a request, in tokens.
        requests: how many may run at the same time.

    256 MiB, or one request where that takes more.  On a GPU as much as all requests take, but no
    more than half of what the weights of every size leave of the budget: CUDA graphs are not
    counted in it.
    """
    least = max(LEAST_KV_BYTES, kv_bytes_for(context, 1, per_token))
    if budget is None or built_for_cpu():
        return least
    rest = budget - Residents.of(family).weight_bytes(whole(family.design))
    return max(least, min(kv_bytes_for(context, requests, per_token), rest // 2))


def kv_bytes_for(context: int, requests: int, per_token: int) -> int:
    """The KV cache that holds so many requests of `context` tokens.

    In whole blocks, and one more: vLLM keeps a block that nobody gets.
    """
    blocks = -(-context // KV_BLOCK) * requests + 1
    return blocks * KV_BLOCK * per_token


@dataclass(frozen=True)
class MemoryPlan:
    """What a server holds under a budget; None: no budget, and every size of the ladder.

    `missing` says of each size that is left out why.
    """

    span: Span
    budget: int | None
    weight_bytes: int
    kv_bytes: int
    missing: Mapping[int, str]


def plan_memory(
    family: Family, residents: Residents, budget: int | None, kv_bytes: int
) -> MemoryPlan:
    """The longest run of offered sizes, from the smallest up, that fits with the KV cache.

    Raises `BudgetError` where not even the smallest does.
    """
    if budget is None:
        span = whole(family.design)
        return MemoryPlan(span, None, residents.weight_bytes(span), kv_bytes, {})
    offered = family.table.offered
    smallest = offered[0].size
    needs = {row.size: residents.weight_bytes(Span(smallest, row.size)) for row in offered}
    fitting = [size for size, need in needs.items() if need + kv_bytes <= budget]
    if not fitting:
        need = needs[smallest] + kv_bytes
        raise BudgetError(
            f"a memory budget of {budget:,} bytes fits no size: the smallest, {offered[0].id}, "
            f"needs {need:,} bytes ({format_bytes(need)}), {format_bytes(kv_bytes)} of it for the "
            "KV cache",
            "memory_budget",
        )
    span = Span(smallest, fitting[-1])
    missing = {
        row.size: _why_missing(row.size, needs, budget, kv_bytes)
        for row in family.rows
        if row.size not in span
    }
    return MemoryPlan(span, budget, needs[span.largest], kv_bytes, missing)


def _why_missing(size: int, needs: Mapping[int, int], budget: int, kv_bytes: int) -> str:
    if size not in needs:
        return "it is not offered, and a server with a memory budget holds offered sizes only"
    return (
        f"up to this size, weights and KV cache need {format_bytes(needs[size] + kv_bytes)}, and "
        f"the server's memory budget is {format_bytes(budget)}"
    )
