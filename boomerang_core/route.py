"""Routes: a size written out as ordered layer references.  Pure data."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import LadderError
from boomerang_core.ladder import Ladder


class Owner(StrEnum):
    """Who a layer, an embedding or a head belongs to."""

    TEACHER = "teacher"
    STUDENT = "student"


class StudentKind(StrEnum):
    """`full`: own weights (the paper).  `lowrank`: a teacher layer plus low-rank deltas."""

    FULL = "full"
    LOWRANK = "lowrank"


@dataclass(frozen=True)
class LayerRef:
    """A teacher layer by its index, or a student layer by its block's index."""

    owner: Owner
    index: int


@dataclass(frozen=True)
class Route:
    """The layers that a size runs, in order; `head` owns the final norm and the LM head."""

    layers: tuple[LayerRef, ...]
    embedding: Owner
    head: Owner


def spell(route: Route) -> str:
    """A route as a line: who owns the embedding, the layers, who owns the head."""
    layers = [f"{ref.owner.value[0]}{ref.index}" for ref in route.layers]
    return " ".join([route.embedding.value, *layers, route.head.value])


def teacher_route(layers: Iterable[int]) -> Route:
    """Those layers of the teacher, in that order: its pruned models are routes too."""
    refs = tuple(LayerRef(Owner.TEACHER, layer) for layer in layers)
    return Route(refs, Owner.TEACHER, Owner.TEACHER)


@dataclass(frozen=True)
class FamilyDesign:
    """Everything that decides the routes of a family.

    Where `own_embeddings` is false, embedding, final norm and LM head are always the teacher's;
    a low-rank student never has its own.
    """

    block_map: BlockMap
    ladder: Ladder
    kind: StudentKind
    own_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.ladder.num_blocks != len(self.block_map):
            raise LadderError(
                f"the ladder patches {self.ladder.num_blocks} blocks, "
                f"the block map has {len(self.block_map)}"
            )
        if self.own_embeddings and self.kind is StudentKind.LOWRANK:
            raise LadderError("a low-rank student uses the teacher's embeddings")


def build_route(design: FamilyDesign, size: int) -> Route:
    """Write a size out: the blocks that its ladder has patched by then are the teacher's.

    Raises `LadderError` for a size that the ladder does not have.
    """
    return route_of_set(design, design.ladder.patched(size))


def ladder_routes(design: FamilyDesign) -> list[Route]:
    """The route of every size, smallest first."""
    return [build_route(design, size) for size in range(design.ladder.num_sizes)]


def route_of_set(design: FamilyDesign, patched: frozenset[int]) -> Route:
    """The route with those blocks patched, whether or not the ladder comes by them.

    Patched and shared blocks are the teacher's, the rest the student's.  The embedding comes from
    the owner of the first block, the head from the owner of the last (arXiv 2510.05064, §2.3).
    """
    layers: list[LayerRef] = []
    for index, block in enumerate(design.block_map):
        if index in patched or block.shared:
            layers += [LayerRef(Owner.TEACHER, layer) for layer in block.layers]
        else:
            layers.append(LayerRef(Owner.STUDENT, index))
    last = len(design.block_map) - 1

    def owner(block: int) -> Owner:
        own = design.own_embeddings and block not in patched
        return Owner.STUDENT if own else Owner.TEACHER

    return Route(tuple(layers), embedding=owner(0), head=owner(last))


def naive_route(route: Route, block_map: BlockMap) -> Route:
    """Naive pruning: the route with each student layer as it was before distillation.

    That is the teacher layer that its block keeps; both ends are the teacher's.
    """
    layers = (
        block_map[ref.index].kept if ref.owner is Owner.STUDENT else ref.index
        for ref in route.layers
    )
    return teacher_route(layers)
