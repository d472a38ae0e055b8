"""Shapes, the layer calls of a step, and what a step must read and compute.  No torch.

Block maps, ladders and slices are the engine's own: `boomerang_core` and `server.engine.plan`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from boomerang_core.blocks import BlockMap
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, Owner, StudentKind, build_route
from server.engine.plan import Ranks, StepPlan, build_plan


@dataclass(frozen=True)
class Map:
    """A linear map that fuses maps of one input: `outputs` has one width for each."""

    inputs: int
    outputs: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Weights of the dense map."""
        return self.inputs * sum(self.outputs)

    def factors(self, rank: int) -> int:
        """Weights of the low-rank factors: A and B of each fused map."""
        return rank * (len(self.outputs) * self.inputs + sum(self.outputs))

    def stored_factors(self, rank: int) -> int:
        """Weights as this benchmark stores them: the Bs in one block-diagonal matrix."""
        return rank * len(self.outputs) * (self.inputs + sum(self.outputs))


@dataclass(frozen=True)
class Shape:
    """A Qwen3 model's shape; counts of elements."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    rank: int = 32

    @property
    def maps(self) -> dict[str, Map]:
        """The four fused linear maps (seven maps) of a layer."""
        kv = self.kv_heads * self.head_dim
        attention = self.heads * self.head_dim
        return {
            "qkv": Map(self.hidden, (attention, kv, kv)),
            "o": Map(attention, (self.hidden,)),
            "gate_up": Map(self.hidden, (self.inner, self.inner)),
            "down": Map(self.inner, (self.hidden,)),
        }

    @property
    def norm_weights(self) -> int:
        """Norm weights of a layer, with q's and k's stored once per head."""
        return 2 * self.hidden + (self.heads + self.kv_heads) * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights of a layer."""
        return sum(part.weights for part in self.maps.values()) + self.norm_weights

    @property
    def delta_weights(self) -> int:
        """Weights of a low-rank student layer: factors and norms."""
        return sum(part.factors(self.rank) for part in self.maps.values()) + self.norm_weights

    @property
    def stored_delta_weights(self) -> int:
        """As `delta_weights`, with block-diagonal Bs."""
        stored = sum(part.stored_factors(self.rank) for part in self.maps.values())
        return stored + self.norm_weights

    @property
    def vocabulary_weights(self) -> int:
        """Embedding, head (once where tied) and final norm."""
        return (1 if self.tied else 2) * self.vocab * self.hidden + self.hidden


QWEN3_4B = Shape("qwen3-4b", 36, 2560, 9728, 32, 8, 128, 151_936, tied=True)
QWEN3_8B = Shape("qwen3-8b", 36, 4096, 12_288, 32, 8, 128, 151_936, tied=False)
SHAPES = {shape.name: shape for shape in (QWEN3_4B, QWEN3_8B)}
TINY = Shape("tiny", 6, 64, 96, 4, 2, 16, 128, tied=False, rank=4)


def family_design(shape: Shape, kind: StudentKind) -> FamilyDesign:
    """The paper's layout and order; a full student has its own embedding, final norm and head."""
    blocks = BlockMap.every_second_and_last(shape.layers)
    own_embeddings = kind is StudentKind.FULL
    return FamilyDesign(blocks, Ladder.last_to_first(blocks), kind, own_embeddings)


def three_sizes(design: FamilyDesign) -> tuple[int, int, int]:
    """Student, a middle size, teacher."""
    top = design.ladder.teacher_size
    return 0, top // 2, top


def thirds(rows: int, sizes: Sequence[int]) -> list[int]:
    """`rows` sizes, largest first, in parts as equal as can be."""
    ordered = sorted(sizes, reverse=True)
    return [ordered[index * len(ordered) // rows] for index in range(rows)]


@dataclass(frozen=True)
class Load:
    """What each row of a step brings: new tokens, and the context they end (themselves in it)."""

    rows: int
    tokens: int
    context: int

    def __post_init__(self) -> None:
        # torch's causal mask is aligned top left: only these two cases mean what we want.
        assert self.tokens in (1, self.context), "one token on a cache, or a whole prompt"


@dataclass(frozen=True)
class LayerCall:
    """One layer on rows `start … stop-1`, with a delta on rows `delta_start … stop-1`.

    `index` is a teacher layer, or a block for a student's own layer; `cache` is the teacher layer
    whose KV it uses; `delta` is the block of the delta.
    """

    owner: Owner
    index: int
    cache: int
    start: int
    stop: int
    delta: int | None = None
    delta_start: int = 0


@dataclass(frozen=True)
class Step:
    """A step made out: the plan, and its layer calls in order."""

    design: FamilyDesign
    load: Load
    plan: StepPlan
    calls: tuple[LayerCall, ...]


def plan_step(design: FamilyDesign, sizes: Sequence[int], tokens: int, context: int) -> Step:
    """Make out a step of rows sorted by size, largest first."""
    plan = build_plan(Ranks.of(design), sizes, [tokens] * len(sizes))
    load = Load(len(sizes), tokens, context)
    return Step(design, load, plan, tuple(_calls(design, plan)))


def _calls(design: FamilyDesign, plan: StepPlan) -> Iterator[LayerCall]:
    rows = plan.num_requests
    lowrank = design.kind is StudentKind.LOWRANK
    for index, block in enumerate(design.block_map):
        first = plan.blocks[index].requests
        for layer in block.layers:
            if lowrank and layer == block.kept and first < rows:
                yield LayerCall(Owner.TEACHER, layer, layer, 0, rows, index, first)
            elif first:
                yield LayerCall(Owner.TEACHER, layer, layer, 0, first)
        if not lowrank and first < rows:
            yield LayerCall(Owner.STUDENT, index, block.kept, first, rows)


def layers_of(design: FamilyDesign, size: int) -> int:
    """Layers that a size runs."""
    return len(build_route(design, size).layers)


@dataclass(frozen=True)
class Work:
    """Bytes that a step must read from memory, and floating-point operations it must do."""

    read: int
    flops: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.read + other.read, self.flops + other.flops)

    def seconds(self, bytes_per_second: float, flops_per_second: float) -> tuple[float, str]:
        """The longer of the two floors, and which it is."""
        memory, compute = self.read / bytes_per_second, self.flops / flops_per_second
        return max((memory, "memory"), (compute, "compute"))


def step_work(shape: Shape, step: Step, element: int) -> Work:
    """The least work of a step: each weight once, each row's KV once per layer, the heads.

    Not counted: activations, the rows of the embedding, writes of KV and of logits.

    Args:
        shape: the model's shape.
        step: the step.
        element: bytes of an element.
    """
    total = Work(0, 0)
    for call in step.calls:
        total += _call_work(shape, step.load, call)
    heads = (step.plan.head_rows > 0) + (step.plan.head_rows < step.load.rows)
    matrix = shape.vocab * shape.hidden
    total += Work(heads * matrix, 2 * matrix * step.load.rows)
    return Work(total.read * element, total.flops)


def _call_work(shape: Shape, load: Load, call: LayerCall) -> Work:
    """Elements and operations of one layer call."""
    rows = call.stop - call.start
    read, flops = shape.layer_weights, 2 * shape.layer_weights * rows * load.tokens
    if call.delta is not None:
        delta_tokens = (call.stop - call.delta_start) * load.tokens
        read += shape.delta_weights
        flops += 2 * shape.delta_weights * delta_tokens
    return Work(read, flops) + _attention_work(shape, load, rows)


def _attention_work(shape: Shape, load: Load, rows: int) -> Work:
    cached = rows * load.context * 2 * shape.kv_heads * shape.head_dim
    pairs = load.tokens * (load.context - load.tokens) + load.tokens * (load.tokens + 1) // 2
    return Work(cached, 4 * rows * pairs * shape.heads * shape.head_dim)


def attention_work(shape: Shape, load: Load, element: int) -> Work:
    """The least work of attention alone, in all layers of the teacher."""
    one = _attention_work(shape, load, load.rows)
    return Work(shape.layers * one.read * element, shape.layers * one.flops)


def resident_weights(shape: Shape, design: FamilyDesign, stored: bool = True) -> int:
    """Weights that a student adds to its teacher's, as stored here or as the least there are."""
    if design.kind is StudentKind.FULL:
        own = shape.vocabulary_weights if design.own_embeddings else 0
        return len(design.block_map) * shape.layer_weights + own
    one = shape.stored_delta_weights if stored else shape.delta_weights
    return len(design.block_map) * one


def teacher_weights(shape: Shape) -> int:
    """Weights of the teacher."""
    return shape.layers * shape.layer_weights + shape.vocabulary_weights
