"""Layouts: the layers of a teacher cut into blocks of least total damage.  Pure.

A shortest path in an acyclic graph: the nodes are (layers covered, blocks used), and a block that
may be made leads from its first layer to past its last.
"""

from __future__ import annotations

from collections.abc import Mapping

from boomerang_core.blocks import Block, BlockMap
from boomerang_core.errors import BlockMapError

Run = tuple[int, int]  # layers start … stop-1


def candidates(num_layers: int, max_block: int) -> list[Block]:
    """Every block of 2 to `max_block` layers, with every layer that it could keep."""
    return [
        Block(start, start + length, kept)
        for length in range(2, max_block + 1)
        for start in range(num_layers - length + 1)
        for kept in range(start, start + length)
    ]


def cheapest_layout(
    num_layers: int, damage: Mapping[Block, float], blocks: int | None = None
) -> BlockMap:
    """The layout whose damages add up to the least.

    `damage` holds the blocks of several layers that may be made, each with the layer that it keeps;
    one-layer blocks may always be made and do none.  `blocks` is how many the layout has: the
    student's layers; None is the fewest that can be.  Raises `BlockMapError`, which names the
    numbers that can be, where there is no such layout.
    """
    best = {(layer, layer + 1): Block(layer, layer + 1, layer) for layer in range(num_layers)}
    damage = {**dict.fromkeys(best.values(), 0.0), **damage}
    for block in sorted(damage, key=lambda block: (damage[block], block.kept)):
        best.setdefault((block.start, block.stop), block)
    runs = partition(num_layers, {run: damage[block] for run, block in best.items()}, blocks)
    return BlockMap(num_layers, tuple(best[run] for run in runs))


def partition(num_layers: int, damage: Mapping[Run, float], count: int | None) -> list[Run]:
    """Cut layers 0 … n-1 into `count` of the given runs, of least total damage.

    None is the fewest.  Raises `BlockMapError` where that is not possible.
    """
    best: dict[Run, tuple[float, int]] = {(0, 0): (0.0, 0)}  # (covered, runs) → cost, last start
    for used in range(num_layers):
        for (start, stop), cost in damage.items():
            if (start, used) in best:
                way = (best[start, used][0] + cost, start)
                best[stop, used + 1] = min(way, best.get((stop, used + 1), way))
    possible = [used for covered, used in best if covered == num_layers]
    chosen = min(possible, default=None) if count is None else count
    if chosen is None or chosen not in possible:
        numbers = ", ".join(map(str, sorted(possible))) or "no number"
        wanted = "any number of" if chosen is None else chosen
        raise BlockMapError(
            f"{num_layers} layers do not go into {wanted} blocks that are allowed; "
            f"{numbers} would do"
        )
    return _walk_back(best, num_layers, chosen)


def _walk_back(best: Mapping[Run, tuple[float, int]], stop: int, used: int) -> list[Run]:
    runs: list[Run] = []
    while used:
        start = best[stop, used][1]
        runs.append((start, stop))
        stop, used = start, used - 1
    return runs[::-1]
