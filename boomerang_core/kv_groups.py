"""Which layers keep their keys and values together.  Pure: no vLLM, no torch.

vLLM hands out KV memory in blocks of one size, to groups of layers: a block of a group holds some
tokens' keys and values for every layer of the group.  A request holds blocks in the groups whose
layers it runs, so the layers are put in the order in which the ladder adds them, and cut there
into groups of as equal a length as can be: a size then runs the first groups, all but the last of
them wholly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from boomerang_core.family import Family
from boomerang_core.ladder import ALWAYS_TEACHER
from boomerang_core.route import FamilyDesign

MOST_GROUPS = 6
"""Each group costs a block table and metadata in every step (docs/decisions/0005)."""


def layer_ranks(design: FamilyDesign) -> tuple[int, ...]:
    """For each teacher layer its rank: its keys and values are needed at every size above it.

    A block's kept layer has rank `ALWAYS_TEACHER`, since the student's layer writes there.
    """
    return tuple(
        ALWAYS_TEACHER if layer == block.kept else rank
        for block, rank in zip(design.block_map, design.ladder.ranks, strict=True)
        for layer in block.layers
    )


@dataclass(frozen=True)
class KVGroups:
    """The groups, each a tuple of places in the list of layers, and the rank of each group.

    A request holds blocks in the groups whose rank is below its size.
    """

    layers: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.layers) == len(self.ranks) > 0, "one rank per group"
        assert list(self.ranks) == sorted(self.ranks), "in the order of the ladder"

    @property
    def layers_per_block(self) -> int:
        """Layers whose keys and values fit a block: as many as the longest group has."""
        return max(len(group) for group in self.layers)

    def held(self, size: int) -> int:
        """The layers' worth of memory that a token of a size takes, padding included."""
        return self.layers_per_block * sum(rank < size for rank in self.ranks)


def split_layers(ranks: Sequence[int], count: int) -> KVGroups:
    """Layers of those ranks in `count` groups, the first ones longer by one where it must be."""
    order = sorted(range(len(ranks)), key=lambda layer: ranks[layer])  # stable: layers ascend
    shorter, longer = divmod(len(order), count)
    groups, start = [], 0
    for index in range(count):
        stop = start + shorter + (index < longer)
        groups.append(tuple(order[start:stop]))
        start = stop
    return KVGroups(tuple(groups), tuple(ranks[group[0]] for group in groups))


def choose_groups(ranks: Sequence[int], most: int = MOST_GROUPS) -> KVGroups:
    """The cut that wastes least at the two ends of the ladder; of equals, the fewest groups.

    The waste is held ÷ needed memory of the smallest size, times the same of the largest: what
    small requests do not gain, and what large ones lose.

    Args:
        ranks: the rank of each layer that is there, first to last (`layer_ranks`).
        most: groups there may be.
    """
    top = max(ranks) + 1
    smallest = sum(rank == ALWAYS_TEACHER for rank in ranks)

    def waste(groups: KVGroups) -> float:
        return groups.held(0) / smallest * groups.held(top) / len(ranks)

    counts = [count for count in range(1, min(most, len(ranks)) + 1) if _kept(len(ranks), count)]
    return min((split_layers(ranks, count) for count in counts), key=waste)


def _kept(layers: int, count: int) -> bool:
    """Whether vLLM takes such groups as they are.

    Where the longest is half as long again as the shortest, it cuts all to the shortest length
    (`_get_kv_cache_groups_uniform_page_size`).
    """
    shortest, longest = layers // count, ceil(layers / count)
    return longest == shortest or longest < 1.5 * shortest


def kv_bytes(family: Family, tensor_parallel_size: int = 1) -> tuple[int, ...]:
    """Bytes of a server's KV cache that a token takes, by size, on all its ranks together.

    `family`: with the footprints of the served format.  The engine keeps layers in groups, the last
    of which may have places left over, and where there are more ranks than heads, several ranks
    keep the same one.
    """
    ranks = layer_ranks(family.design)
    copies = max(1, tensor_parallel_size // family.shape.num_kv_heads)
    groups, teacher = choose_groups(ranks), copies * family.table.teacher.kv_bytes_per_token
    return tuple(teacher * groups.held(row.size) // len(ranks) for row in family.rows)
