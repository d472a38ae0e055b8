"""Random figures for every set of blocks, and designs to search."""

import random
from collections.abc import Sequence

from boomerang_core.blocks import BlockMap
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.search.lattice import BlockSet

SEEDS = range(12)
LENGTHS = [
    (2,),
    (2, 3),
    (1, 2, 2),
    (3, 1, 2, 2),
    (2, 1, 3, 1, 2),
    (2, 2, 3, 2, 2),
    (1, 2, 1, 2, 2, 1),
]


class Table:
    """A random KL for every set: nothing about it is monotone.  Counts what is asked."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.asked: list[BlockSet] = []

    def of(self, patched: BlockSet) -> float:
        return random.Random(f"{self._seed} {sorted(patched)}").random()

    def __call__(self, sets: Sequence[BlockSet]) -> list[float]:
        self.asked += sets
        return [self.of(patched) for patched in sets]


def design_of(
    lengths: Sequence[int], shared: Sequence[int] = (), own: bool = False
) -> FamilyDesign:
    """Blocks of these lengths; `shared` are the places of one-layer blocks that are shared."""
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    layers = [list(range(s, s + n)) for s, n in zip(starts, lengths, strict=True)]
    block_map = BlockMap.from_layers(layers, shared=[starts[place] for place in shared])
    return FamilyDesign(block_map, Ladder.last_to_first(block_map), StudentKind.FULL, own)
