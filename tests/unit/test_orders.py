"""Every order of a search is a ladder that is rated as its sets are."""

from collections.abc import Sequence
from math import isclose

import pytest

from boomerang_core.errors import SettingsError
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, Route, StudentKind, route_of_set
from boomerang_core.search.ladders import (
    ORDERS,
    PRESENT,
    RatedLadder,
    Tools,
    best_of,
    lattice_of,
    search_ladder,
)
from boomerang_core.search.report import gap, ladder_lines
from tests.unit.ladder_tables import SEEDS, Table, design_of


class TestOrders:
    design = design_of((1, 2, 1, 3, 2, 1), shared=(0, 5))
    similarity = (0.1, 0.9, 0.2, 0.8, 0.95, 0.3)

    def tools(self, kl: Table, limit: int = 100) -> Tools:
        named = {route_of_set(self.design, s): s for s in lattice_of(self.design).sizes()}
        named |= {route_of_set(self.design, frozenset({2})): frozenset({2})}

        def of_routes(routes: Sequence[Route]) -> list[float]:
            return kl([named.get(route, frozenset({-1})) for route in routes])

        return Tools(of_routes, lambda: self.similarity, limit)

    @pytest.mark.parametrize("order", [*ORDERS, PRESENT])
    def test_every_order_is_a_ladder_rated_by_its_sets(self, order: str) -> None:
        kl = Table(5)
        rated = search_ladder(self.design, order, self.tools(kl))
        assert rated.layers == tuple(sorted(rated.layers))
        assert rated.ladder.num_sizes == 4
        idle = {0, 5}
        expected = [kl.of(rated.ladder.patched(size) - idle) for size in range(3)]
        assert rated.kl == (*expected, 0.0)
        assert rated.models == len(set(kl.asked))
        assert rated.one_by_one
        assert (rated.bound is not None) == (order == "shortest-path")

    def test_each_order_follows_its_rule(self) -> None:
        def steps(order: str) -> list[set[int]]:
            ladder = search_ladder(self.design, order, self.tools(Table(5))).ladder
            return [set(step) for step in ladder.steps]

        assert steps("last-to-first") == [{5, 4}, {3}, {2, 1, 0}]
        assert steps("first-to-last") == [{0, 1}, {2, 3}, {4, 5}]
        assert steps("cosine") == [{0, 5, 2, 3}, {1}, {4}]  # the shared ones with the first

    @pytest.mark.parametrize("seed", SEEDS)
    def test_the_shortest_path_is_the_best_of_them(self, seed: int) -> None:
        tools = self.tools(Table(seed))
        ladders = [search_ladder(self.design, order, tools) for order in (PRESENT, *ORDERS)]
        best = best_of(ladders)
        bound = ladders[-1].bound
        assert bound is not None
        assert isclose(best.area, ladders[-1].area)
        assert gap(ladders[-1], bound) == pytest.approx(0)
        assert all(gap(rated, bound) >= 0 for rated in ladders)

    def test_an_unknown_order_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="shortest-path, got 'fastest'"):
            search_ladder(self.design, "fastest", self.tools(Table(0)))

    def test_a_ladder_of_larger_steps_has_no_gap(self) -> None:
        design = FamilyDesign(
            self.design.block_map, Ladder(6, ((1, 3), (0, 2, 4, 5))), StudentKind.FULL
        )
        rated = search_ladder(design, PRESENT, self.tools(Table(0)))
        assert not rated.one_by_one
        assert gap(rated, 0.1) is None

    def test_the_table_of_all_orders_is_within_80_columns(self) -> None:
        ladder = Ladder(1, ((0,),))
        names = (PRESENT, *ORDERS[:-1])
        ladders = [RatedLadder(name, ladder, (2, 5), (2.0, 0.0), 3, True) for name in names]
        assert max(map(len, ladder_lines(ladders))) <= 80

    def test_the_table_has_a_line_a_depth(self) -> None:
        ladder = Ladder(2, ((0,), (1,)))
        one = RatedLadder("one", ladder, (2, 3, 5), (2.0, 1.0, 0.0), 3, True)
        two = RatedLadder("two", ladder, (2, 4, 5), (2.0, 0.5, 0.0), 4, True, bound=1.0)
        lines = [line.split() for line in ladder_lines([one, two])]
        assert lines[:5] == [
            ["layers", "one", "two"],
            ["2", "2.0000", "2.0000"],
            ["3", "1.0000"],
            ["4", "0.5000"],
            ["5", "0.0000", "0.0000"],
        ]
        assert lines[5:8] == [
            ["area", "1.3333", "1.5000"],
            ["gap", "25.0%", "33.3%"],
            ["models", "3", "4"],
        ]
