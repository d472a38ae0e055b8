"""The ladder of least area as a shortest path, exact or with a proven bound.  Pure.

arXiv 2607.08170 casts the choice of blocks as a shortest path.  Here the nodes are sets of patched
blocks, and adding block *b* to set *S* costs KL(S) * (layers that *b* adds), so that a path from
student to teacher costs its ladder's area times all layers added.  A one-layer block costs nothing
and joins the size before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from boomerang_core.errors import SettingsError
from boomerang_core.search.lattice import STUDENT, BlockSet, Lattice, subsets

_MANY = 2**62  # what a range can count


class Asked:
    """The sets that a search has asked for, with their KL to the teacher in nats a token."""

    def __init__(self, measure: Callable[[Sequence[BlockSet]], Sequence[float]]) -> None:
        self._measure = measure
        self.kl: dict[BlockSet, float] = {}

    def __call__(self, sets: Sequence[BlockSet]) -> list[float]:
        """The KL of each set; each is measured once."""
        new = [patched for patched in dict.fromkeys(sets) if patched not in self.kl]
        if new:
            self.kl.update(zip(new, self._measure(new), strict=True))
        return [self.kl[patched] for patched in sets]


def greedy(blocks: Collection[int], asked: Asked, backward: bool = False) -> list[int]:
    """KLPatch (arXiv 2607.08170): block after block, the one that leaves the least KL.

    From the student, patch the block that lowers KL most; `backward`: from the teacher, take back
    the block that raises it least, and patch in the opposite order.  Ties go to the lower block.
    Asks for M (M + 1) / 2 - 1 sets: the last block is no choice.
    """
    left = sorted(blocks)
    order: list[int] = []
    while len(left) > 1:
        before = frozenset(left if backward else order)
        kl = asked([before ^ {block} for block in left])
        order.append(left.pop(kl.index(min(kl))))
    order += left
    return order[::-1] if backward else order


@dataclass(frozen=True)
class Path:
    """Blocks in the order in which they are added, and the share of the area, in nats a token."""

    order: tuple[int, ...]
    cost: float


def cheapest(
    lattice: Lattice, kl: Mapping[BlockSet, float], starts: Iterable[BlockSet], level: int
) -> Path | None:
    """The cheapest path from any of the starts to any set of a level, by Dijkstra's algorithm.

    It pays only at sets whose KL is known; None where there is no such path.
    """
    best = dict.fromkeys(starts, 0.0)
    queue: list[tuple[float, tuple[int, ...], BlockSet]] = [(0.0, (), start) for start in best]
    heapify(queue)
    while queue:
        cost, order, patched = heappop(queue)
        if lattice.level(patched) == level:
            return Path(order, cost / lattice.total)
        if cost > best[patched]:
            continue
        blocks = lattice.next_blocks(patched)
        for block in blocks if patched in kl else lattice.single.intersection(blocks):
            layers, further = lattice.added[block], patched | {block}
            dearer = cost + layers * kl[patched] if layers else cost
            if dearer < best.get(further, inf):
                best[further] = dearer
                heappush(queue, (dearer, (*order, block), further))
    return None


def lower_bound(lattice: Lattice, kl: Mapping[BlockSet, float]) -> float:
    """An area that no ladder can go below, as far as these measurements can show.

    Let a ladder have M steps.  Its area is a sum of M charges, one at each level 0 … M-1 (level:
    blocks of several layers patched), and no charge is negative, because KL is not.

    Say that every set of the levels below *a* is measured.  The first *a* charges of any ladder are
    the cost of some path from the student to level *a*, all of whose charges are known; so they
    come to at least the cheapest of those paths.  Say that every set of the levels from *b* on is
    measured too, *b* > *a*.  In the same way the last M-*b* charges come to at least the cheapest
    path from any set of level *b* to the teacher.  The charges in between are at least 0.  The sum
    of the two is the bound.  Where all is measured, *a* = M, and the bound is the optimum.

    Nothing is assumed of KL between sets: it can rise when one more block is patched, so what is
    measured at a level says nothing about its other sets.  Between *a* and *b* nothing better than
    0 holds, and a bound from few measurements is far below what any ladder reaches.
    """
    top = len(lattice.long)
    known: list[list[BlockSet]] = [[] for _ in range(top)]
    for patched in filter(lattice.is_size, kl):
        known[lattice.level(patched)].append(patched)
    whole = [len(sets) == lattice.sizes_at(level) for level, sets in enumerate(known)]
    first = whole.index(False) if False in whole else top
    last = top if first == top else top - whole[::-1].index(False)
    bound = _cost(cheapest(lattice, kl, [STUDENT], first))
    return bound if last == top else bound + _cost(cheapest(lattice, kl, known[last], top))


def _cost(path: Path | None) -> float:
    assert path is not None, "complete levels have a path"
    return path.cost


@dataclass(frozen=True)
class Found:
    """An order, its area, and an area that no ladder goes below; the two are equal where exact."""

    order: tuple[int, ...]
    area: float
    bound: float


def shortest_path(lattice: Lattice, asked: Asked, limit: int) -> Found:
    """The ladder of least area that at most `limit` measured sets can find.

    Exact where the limit covers all `num_sizes` sets.  Otherwise KLPatch and a beam from the
    student, and of all ladders through the sets that they measured the best: never worse than
    KLPatch, and `lower_bound` says how much better the best of all could be.  Raises
    `SettingsError` for a limit below what KLPatch takes.
    """
    if lattice.num_sizes <= limit:
        asked(list(lattice.sizes()))
    else:
        least = len(lattice.added) * (len(lattice.added) + 1) // 2
        if limit < least:
            raise SettingsError(f"limit must be at least {least}, what klpatch measures")
        asked([STUDENT])
        greedy(lattice.added, asked)
        _beam(lattice, asked, limit)
    path = cheapest(lattice, asked.kl, [STUDENT], len(lattice.long))
    assert path is not None, "klpatch is a path"
    return Found(tuple(lattice.as_order(path.order)), path.cost, lower_bound(lattice, asked.kl))


def _beam(lattice: Lattice, asked: Asked, limit: int) -> None:
    """Measure, level after level, the sets one step from the most promising ones.

    Promising: the cost up to there, and from there on as if KL fell to 0 in a straight line.  The
    first levels are kept whole where the limit allows, which is what the bound feeds on.
    """

    def promise(patched: BlockSet) -> tuple[float, list[int]]:
        left = lattice.total - sum(lattice.added[block] for block in patched)
        return costs[patched] + asked.kl[patched] * left / 2, sorted(patched)

    costs = {STUDENT: 0.0}
    for level in range(1, len(lattice.long)):
        width = _width(lattice, level, limit - len(asked.kl))
        kept = sorted(costs, key=promise)[:width]
        costs = _children(lattice, asked.kl, {patched: costs[patched] for patched in kept})
        asked(list(costs))


def _width(lattice: Lattice, level: int, budget: int) -> int:
    """The most sets to step from, at this level and each later one, within a budget of new sets."""
    top, beside = len(lattice.long), 2 ** len(lattice.single)

    def new_sets(width: int) -> int:
        steps = ((at, width * (top - at + 1) * beside) for at in range(level, top))
        return sum(min(lattice.sizes_at(at), children) for at, children in steps)

    most = min(lattice.sizes_at(level - 1), _MANY)
    return bisect_right(range(1, most + 1), budget, key=new_sets)


def _children(
    lattice: Lattice, kl: Mapping[BlockSet, float], costs: Mapping[BlockSet, float]
) -> dict[BlockSet, float]:
    """The sets one step further, each with the cost of the cheapest way there."""
    further: dict[BlockSet, float] = {}
    for patched, cost in costs.items():
        for block in sorted(lattice.long - patched):
            dearer = cost + kl[patched] * lattice.added[block]
            for beside in subsets(lattice.single - patched):
                child = patched | {block} | beside
                further[child] = min(dearer, further.get(child, dearer))
    return further
