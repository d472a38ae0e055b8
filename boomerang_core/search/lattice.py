"""The nested sets of patched blocks that ladders pass through, and the area of a ladder.  Pure.

The sizes of a ladder are nested sets, from the student's, which is empty, to the teacher's.  Each
step adds one block of several layers, and any number of one-layer blocks with it.  The *area* of a
ladder is

    sum over sizes k of  KL(k) * (layers that the next step adds) / (layers that all steps add)

in nats a token: the mean KL to the teacher over all depths between student and teacher, where a
depth is served by the largest size that fits.  A teacher's layers have equally many parameters, so
this is the area under KL against parameters, but for a vocabulary that some sizes hold twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, pairwise
from math import comb

from boomerang_core.errors import LadderError

BlockSet = frozenset[int]
STUDENT: BlockSet = frozenset()


def area(layers: Sequence[int], kl: Sequence[float]) -> float:
    """The area of a ladder, from the layers and the KL of each of its sizes, teacher included."""
    steps = [larger - smaller for smaller, larger in pairwise(layers)]
    return sum(nats * step for nats, step in zip(kl[:-1], steps, strict=True)) / sum(steps)


@dataclass(frozen=True)
class Lattice:
    """The sets that a ladder can pass through.

    `added[b]` is how many layers patching block *b* adds: 0 for a block of one layer.  Blocks that
    change nothing when they are patched are left out.  Raises `LadderError` where no block adds a
    layer: student and teacher are then the only sizes.
    """

    added: Mapping[int, int]

    def __post_init__(self) -> None:
        if not self.long:
            raise LadderError("no block has several layers, so there is no order to search")

    @cached_property
    def long(self) -> BlockSet:
        """The blocks that add layers."""
        return frozenset(block for block, layers in self.added.items() if layers)

    @cached_property
    def all(self) -> BlockSet:
        """Every block: the teacher."""
        return frozenset(self.added)

    @cached_property
    def single(self) -> BlockSet:
        """The blocks that change the model and add no layer."""
        return self.all - self.long

    @cached_property
    def total(self) -> int:
        """Layers between student and teacher."""
        return sum(self.added.values())

    def level(self, patched: BlockSet) -> int:
        """How many blocks of several layers are patched."""
        return len(patched & self.long)

    def is_size(self, patched: BlockSet) -> bool:
        """Whether a ladder can have a size with these blocks patched, below the teacher."""
        return not patched or 0 < self.level(patched) < len(self.long)

    def sizes_at(self, level: int) -> int:
        """How many such sizes there are at a level."""
        return comb(len(self.long), level) * 2 ** len(self.single) if level else 1

    @property
    def num_sizes(self) -> int:
        """How many there are in all: what an exact search measures."""
        return sum(self.sizes_at(level) for level in range(len(self.long)))

    def sizes(self) -> Iterator[BlockSet]:
        """All of them, student first."""
        yield STUDENT
        for level in range(1, len(self.long)):
            for chosen in combinations(sorted(self.long), level):
                yield from (frozenset(chosen) | beside for beside in subsets(self.single))

    def next_blocks(self, patched: BlockSet) -> list[int]:
        """What can be patched next: the first block must be a long one, since size 0 has none."""
        return sorted((self.all if patched else self.long) - patched)

    def as_order(self, path: Iterable[int]) -> list[int]:
        """A path's order as `Ladder.from_order` reads it, with the same sets for sizes.

        On a path, one-layer blocks join the long block before them; for `from_order` they go
        before it.  Those that the path left out join the last step.
        """
        steps: list[list[int]] = []
        for block in path:
            if block in self.long:
                steps.append([block])
            else:
                steps[-1].insert(-1, block)
        found = [block for step in steps for block in step]
        return found + sorted(self.all - set(found))


def subsets(blocks: BlockSet) -> Iterator[BlockSet]:
    """Every subset, the empty one first."""
    sizes = range(len(blocks) + 1)
    return map(frozenset, chain.from_iterable(combinations(sorted(blocks), n) for n in sizes))
