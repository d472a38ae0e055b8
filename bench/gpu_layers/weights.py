"""Random weights of a teacher and of a student of either kind.

Legend: D hidden, H query and key heads, E head size, I inputs and O outputs of a fused linear map,
R rank times the maps fused in it, V vocabulary.
"""

from dataclasses import dataclass, replace

import torch

from bench.gpu_layers.routes import Shape
from boomerang_core.route import FamilyDesign, Owner, StudentKind

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Maker:
    """Makes random tensors where and as they will be used."""

    device: torch.device
    dtype: torch.dtype

    def normal(self, *size: int, std: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        """A random tensor."""
        return torch.empty(size, device=self.device, dtype=self.dtype).normal_(mean, std)


@dataclass(frozen=True)
class Layer:
    """Dense weights W (O, I) of the fused maps; norms `input`, `post` (D) and `heads` (H, E)."""

    maps: Weights
    norms: Weights


@dataclass(frozen=True)
class Delta:
    """A low-rank student layer: A (R, I) and block-diagonal B (O, R) of the maps; its own norms."""

    a: Weights
    b: Weights
    norms: Weights


@dataclass(frozen=True)
class Vocabulary:
    """Embedding and head (V, D), final norm (D)."""

    embedding: torch.Tensor
    head: torch.Tensor
    norm: torch.Tensor


@dataclass(frozen=True)
class Teacher:
    """The teacher's layers and vocabulary."""

    layers: tuple[Layer, ...]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Family:
    """A teacher and a student of one kind: `layers` (full) or `deltas` (low-rank), one a block."""

    shape: Shape
    design: FamilyDesign
    teacher: Teacher
    layers: tuple[Layer, ...] = ()
    deltas: tuple[Delta, ...] = ()
    vocabulary: Vocabulary | None = None

    def owned(self, owner: Owner) -> Vocabulary:
        """An owner's vocabulary."""
        if owner is Owner.TEACHER:
            return self.teacher.vocabulary
        assert self.vocabulary is not None, "this student uses the teacher's vocabulary"
        return self.vocabulary


def _norms(shape: Shape, make: Maker) -> Weights:
    heads = make.normal(shape.heads + shape.kv_heads, shape.head_dim, mean=1.0, std=0.1)
    heads[: shape.heads] = heads[0].clone()  # q has one norm, k another, for all their heads
    heads[shape.heads :] = heads[-1].clone()
    hidden = {name: make.normal(shape.hidden, mean=1.0, std=0.1) for name in ("input", "post")}
    return {**hidden, "heads": heads}


def _layer(shape: Shape, make: Maker) -> Layer:
    maps = {
        name: make.normal(sum(part.outputs), part.inputs, std=part.inputs**-0.5)
        for name, part in shape.maps.items()
    }
    return Layer(maps, _norms(shape, make))


def _delta(shape: Shape, make: Maker) -> Delta:
    a, b = {}, {}
    for name, part in shape.maps.items():
        width = shape.rank * len(part.outputs)
        a[name] = make.normal(width, part.inputs, std=part.inputs**-0.5)
        b[name] = a[name].new_zeros(sum(part.outputs), width)
        start = 0
        for index, outputs in enumerate(part.outputs):
            columns = slice(index * shape.rank, (index + 1) * shape.rank)
            b[name][start : start + outputs, columns].normal_(0.0, 0.5 * shape.rank**-0.5)
            start += outputs
    return Delta(a, b, _norms(shape, make))


def _vocabulary(shape: Shape, make: Maker) -> Vocabulary:
    std = shape.hidden**-0.5  # logits of order one
    embedding = make.normal(shape.vocab, shape.hidden, std=std)
    head = embedding if shape.tied else make.normal(shape.vocab, shape.hidden, std=std)
    return Vocabulary(embedding, head, make.normal(shape.hidden, mean=1.0, std=0.1))


def make_teacher(shape: Shape, make: Maker) -> Teacher:
    """A random teacher."""
    layers = tuple(_layer(shape, make) for _ in range(shape.layers))
    return Teacher(layers, _vocabulary(shape, make))


def make_family(shape: Shape, design: FamilyDesign, teacher: Teacher, make: Maker) -> Family:
    """A random student of the design's kind beside a teacher."""
    blocks = range(len(design.block_map))
    if design.kind is StudentKind.LOWRANK:
        deltas = tuple(_delta(shape, make) for _ in blocks)
        return Family(shape, design, teacher, deltas=deltas)
    own = _vocabulary(shape, make) if design.own_embeddings else None
    layers = tuple(_layer(shape, make) for _ in blocks)
    return Family(shape, design, teacher, layers=layers, vocabulary=own)


def merged(family: Family) -> Family:
    """The same sizes with every low-rank student layer as a dense one."""

    def dense(kept: Layer, delta: Delta) -> Layer:
        maps = {name: w + delta.b[name] @ delta.a[name] for name, w in kept.maps.items()}
        return Layer(maps, delta.norms)

    pairs = zip(family.design.block_map, family.deltas, strict=True)
    layers = tuple(dense(family.teacher.layers[block.kept], delta) for block, delta in pairs)
    design = replace(family.design, kind=StudentKind.FULL)
    return Family(family.shape, design, family.teacher, layers=layers)
