"""Orders of patching, each by its rule, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from boomerang_core.errors import SettingsError
from boomerang_core.ladder import FIXED, Ladder
from boomerang_core.route import FamilyDesign, Route, route_of_set
from boomerang_core.search.lattice import STUDENT, BlockSet, Lattice, area
from boomerang_core.search.path import Asked, greedy, shortest_path

SHORTEST = "shortest-path"
ORDERS = (*FIXED, "cosine", "klpatch", "klpatch-backward", SHORTEST)
PRESENT = "present"


@dataclass(frozen=True)
class RatedLadder:
    """A ladder and the KL of its sizes, smallest first, in nats a token.

    `models` is how many had to be measured to choose and measure it.  `bound` is an area that no
    ladder goes below that patches one block of several layers a step, as this one does where
    `one_by_one` is true; only the search for the shortest path proves one.
    """

    order: str
    ladder: Ladder
    layers: tuple[int, ...]
    kl: tuple[float, ...]
    models: int
    one_by_one: bool
    bound: float | None = None

    @property
    def area(self) -> float:
        """Mean KL over the depths between student and teacher, see `lattice`."""
        return area(self.layers, self.kl)


@dataclass(frozen=True)
class Tools:
    """How a search measures: the KL of routes, and the cosine similarity of every block."""

    kl: Callable[[Sequence[Route]], Sequence[float]]
    similarity: Callable[[], Sequence[float]]
    limit: int


def lattice_of(design: FamilyDesign) -> Lattice:
    """The blocks that change something when they are patched, and the layers that they add."""
    student = route_of_set(design, STUDENT)
    return Lattice(
        {
            index: len(block) - 1
            for index, block in enumerate(design.block_map)
            if route_of_set(design, frozenset({index})) != student
        }
    )


def search_ladder(design: FamilyDesign, order: str, tools: Tools) -> RatedLadder:
    """The ladder of an order, measured.

    - `last-to-first`, `first-to-last`: the paper's.
    - `cosine`: the block for which its student layer stands worst comes first, by `similarities`.
    - `klpatch`, `klpatch-backward`: greedy by KL, from the student or from the teacher.
    - `shortest-path`: the least area, exact or bounded, with at most `tools.limit` models.
    - `present`: the family's own.

    Raises `SettingsError` for another order, `LadderError` where there is nothing to order.
    """
    lattice = lattice_of(design)
    asked = Asked(lambda sets: tools.kl([route_of_set(design, patched) for patched in sets]))
    if order == PRESENT:
        return _rated(order, design, design.ladder, lattice, asked)
    if order in FIXED:
        return _rated(order, design, FIXED[order](design.block_map), lattice, asked)
    blocks, bound = _searched(order, lattice, asked, tools)
    idle = sorted(_idle(design, lattice))
    ladder = Ladder.from_order(design.block_map, [*idle, *blocks])
    return _rated(order, design, ladder, lattice, asked, bound)


def _searched(
    order: str, lattice: Lattice, asked: Asked, tools: Tools
) -> tuple[Sequence[int], float | None]:
    """The blocks that change something, in the order of a rule that measures; and a bound."""
    match order:
        case "cosine":
            similarity = tools.similarity()
            return sorted(lattice.all, key=lambda block: (similarity[block], block)), None
        case "klpatch" | "klpatch-backward":
            return greedy(lattice.all, asked, backward=order == "klpatch-backward"), None
    if order == SHORTEST:
        found = shortest_path(lattice, asked, tools.limit)
        return found.order, found.bound
    raise SettingsError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")


def _idle(design: FamilyDesign, lattice: Lattice) -> BlockSet:
    """Blocks that change nothing, which the first step takes along."""
    return frozenset(range(len(design.block_map))) - lattice.all


def _rated(
    order: str,
    design: FamilyDesign,
    ladder: Ladder,
    lattice: Lattice,
    asked: Asked,
    bound: float | None = None,
) -> RatedLadder:
    sizes = [ladder.patched(size) for size in range(ladder.num_sizes)]
    layers = tuple(len(route_of_set(design, patched).layers) for patched in sizes)
    idle = _idle(design, lattice)  # left out, so that a model has the name it had in the search
    kl = asked([patched - idle for patched in sizes[:-1]])
    one_by_one = all(len(lattice.long & set(step)) == 1 for step in ladder.steps)
    return RatedLadder(order, ladder, layers, (*kl, 0.0), len(asked.kl), one_by_one, bound)


def best_of(ladders: Sequence[RatedLadder]) -> RatedLadder:
    """The ladder of least area, the first of equals."""
    return min(ladders, key=lambda rated: rated.area)
