"""Ladders as shortest paths and layouts as partitions, against every possibility tried."""

import random
from collections.abc import Sequence
from itertools import permutations
from math import isclose

import pytest

from boomerang_core.blocks import Block, BlockMap
from boomerang_core.errors import BlockMapError, LadderError, SettingsError
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
from boomerang_core.search.lattice import STUDENT, BlockSet, Lattice, area
from boomerang_core.search.partition import candidates, cheapest_layout, partition
from boomerang_core.search.path import Asked, greedy, lower_bound, shortest_path
from boomerang_core.search.report import gap, ladder_lines

SEEDS = range(12)


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


def plain_area(design: FamilyDesign, ladder: Ladder, kl: Table) -> float:
    """The area of a ladder, from its definition."""
    sizes = [ladder.patched(size) for size in range(ladder.num_sizes)]
    depths = [len(route_of_set(design, patched).layers) for patched in sizes]
    charges = [
        kl.of(patched) * (after - before)
        for patched, before, after in zip(sizes, depths, depths[1:], strict=False)
    ]
    return sum(charges) / (depths[-1] - depths[0])


def every_area(design: FamilyDesign, kl: Table) -> list[float]:
    """The area of every ladder that `Ladder.from_order` can make."""
    orders = permutations(range(len(design.block_map)))
    ladders = {Ladder.from_order(design.block_map, order) for order in orders}
    return [plain_area(design, ladder, kl) for ladder in ladders]


LENGTHS = [
    (2,),
    (2, 3),
    (1, 2, 2),
    (3, 1, 2, 2),
    (2, 1, 3, 1, 2),
    (2, 2, 3, 2, 2),
    (1, 2, 1, 2, 2, 1),
]


class TestShortestPath:
    @pytest.mark.parametrize("lengths", LENGTHS, ids=str)
    @pytest.mark.parametrize("seed", SEEDS[:4])
    def test_is_the_best_of_all_ladders(self, lengths: Sequence[int], seed: int) -> None:
        design, kl = design_of(lengths), Table(seed)
        lattice, asked = lattice_of(design), Asked(kl)
        found = shortest_path(lattice, asked, limit=lattice.num_sizes)
        assert isclose(found.area, min(every_area(design, kl)))
        assert found.bound == found.area
        ladder = Ladder.from_order(design.block_map, found.order)
        assert isclose(plain_area(design, ladder, kl), found.area)
        assert len(asked.kl) == len(kl.asked) == lattice.num_sizes

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("limit", [40, 60, 100, 180, 250])
    def test_the_gap_is_honest_within_a_limit(self, seed: int, limit: int) -> None:
        rng = random.Random(seed)
        lattice = Lattice({block: rng.choice([0, 1, 1, 2]) for block in range(7)} | {7: 1, 8: 1})
        kl = Table(seed)
        best = shortest_path(lattice, Asked(kl), lattice.num_sizes)
        limit = max(limit, 45)
        asked = Asked(kl)
        found = shortest_path(lattice, asked, limit)
        assert 0 < found.bound <= best.area <= found.area + 1e-12
        assert len(asked.kl) <= limit or len(asked.kl) == lattice.num_sizes
        assert sorted(found.order) == sorted(lattice.added)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_is_never_worse_than_klpatch(self, seed: int) -> None:
        design, kl = design_of((1, 2, 3, 2, 2, 2, 2, 2)), Table(seed)
        lattice = lattice_of(design)
        order = greedy(lattice.added, Asked(kl))
        patched = plain_area(design, Ladder.from_order(design.block_map, order), kl)
        assert shortest_path(lattice, Asked(kl), limit=36).area <= patched + 1e-12

    def test_uses_the_limit_that_it_is_given(self) -> None:
        lattice = Lattice(dict.fromkeys(range(12), 1))
        few, many = Asked(Table(0)), Asked(Table(0))
        narrow, wide = shortest_path(lattice, few, 120), shortest_path(lattice, many, 2000)
        assert len(few.kl) <= 120 < 1500 < len(many.kl) <= 2000
        assert wide.bound > narrow.bound
        assert wide.area < narrow.area

    def test_a_limit_below_klpatch_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="at least 36"):
            shortest_path(Lattice(dict.fromkeys(range(8), 1)), Asked(Table(0)), 35)

    def test_a_teacher_of_eighty_layers_is_within_reach(self) -> None:
        lattice, asked = Lattice(dict.fromkeys(range(40), 1)), Asked(Table(0))
        found = shortest_path(lattice, asked, 900)
        assert 0 < found.bound < found.area
        assert len(asked.kl) <= 900


class TestBound:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_holds_whatever_is_known(self, seed: int) -> None:
        lattice, kl, rng = (
            Lattice({0: 1, 1: 2, 2: 0, 3: 1, 4: 1, 5: 3}),
            Table(seed),
            random.Random(seed),
        )
        best = shortest_path(lattice, Asked(kl), lattice.num_sizes).area
        levels = set(rng.sample(range(5), k=rng.randrange(5)))
        known = {
            patched: kl.of(patched)
            for patched in lattice.sizes()
            if lattice.level(patched) in levels or rng.random() < 0.3
        }
        assert 0 <= lower_bound(lattice, known) <= best + 1e-12

    def test_counts_whole_levels_at_both_ends(self) -> None:
        lattice, kl = Lattice({0: 1, 1: 2, 2: 1, 3: 1}), Table(3)
        student = {STUDENT: kl.of(STUDENT)}
        assert isclose(lower_bound(lattice, student), kl.of(STUDENT) * 1 / 5)
        last = {lattice.all - {block}: kl.of(lattice.all - {block}) for block in lattice.added}
        cheapest = min(kl.of(lattice.all - {b}) * n for b, n in lattice.added.items()) / 5
        assert isclose(lower_bound(lattice, student | last), kl.of(STUDENT) / 5 + cheapest)
        assert lower_bound(lattice, last) == cheapest

    def test_a_level_that_is_not_whole_counts_nothing(self) -> None:
        lattice, kl = Lattice({0: 1, 1: 1, 2: 1}), Table(1)
        known = {STUDENT: 0.5, frozenset({0}): kl.of(frozenset({0}))}
        assert isclose(lower_bound(lattice, known), 0.5 / 3)


class TestGreedy:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("backward", [False, True])
    def test_takes_the_least_at_each_step(self, seed: int, backward: bool) -> None:
        kl, blocks = Table(seed), [1, 2, 4, 5, 7]
        asked = Asked(kl)
        order = greedy(blocks, asked, backward)
        assert sorted(order) == blocks
        for step in range(1, len(blocks)):
            chosen = frozenset(order[:step])
            if backward:
                after = frozenset(order[: step + 1])
                others = [after - {block} for block in after]
            else:
                before = frozenset(order[: step - 1])
                others = [before | {block} for block in blocks if block not in before]
            assert chosen in others
            assert kl.of(chosen) == min(map(kl.of, others))
        assert len(kl.asked) == len(set(kl.asked)) == 5 * 6 / 2 - 1


class TestLattice:
    def test_an_area_is_the_mean_over_depths(self) -> None:
        # 4 layers at KL 3; 6 at 1, which serves 7 layers too; 8 is the teacher
        assert area([4, 6, 8], [3.0, 1.0, 0.0]) == (3 + 3 + 1 + 1) / 4

    def test_counts_the_sets_that_can_be_sizes(self) -> None:
        for lengths in LENGTHS:
            design = design_of(lengths)
            lattice = lattice_of(design)
            orders = permutations(range(len(lengths)))
            ladders = [Ladder.from_order(design.block_map, order) for order in orders]
            sets = {ladder.patched(n) for ladder in ladders for n in range(ladder.teacher_size)}
            assert set(lattice.sizes()) == sets
            assert lattice.num_sizes == len(sets)
            assert all(map(lattice.is_size, sets))
            assert not lattice.is_size(lattice.all)

    def test_shared_blocks_are_left_out_unless_they_own_an_end(self) -> None:
        assert lattice_of(design_of((1, 2, 1, 3), shared=(0, 2))).added == {1: 1, 3: 2}
        assert lattice_of(design_of((1, 2, 1, 3), shared=(0, 2), own=True)).added == {
            0: 0,
            1: 1,
            3: 2,
        }
        assert lattice_of(design_of((1, 2, 1, 3))).added == {0: 0, 1: 1, 2: 0, 3: 2}

    def test_one_layer_blocks_alone_have_no_order(self) -> None:
        with pytest.raises(LadderError, match="no block has several layers"):
            lattice_of(design_of((1, 1)))


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


def compositions(num_layers: int) -> list[list[tuple[int, int]]]:
    """Every way to cut layers into runs."""
    if num_layers == 0:
        return [[]]
    return [
        [*before, (start, num_layers)]
        for start in range(num_layers)
        for before in compositions(start)
    ]


class TestLayouts:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("count", [3, 4, 5, None])
    def test_is_the_best_of_all_partitions(self, seed: int, count: int | None) -> None:
        rng, num_layers = random.Random(seed), 7
        damage = {
            (start, stop): rng.random()
            for start in range(num_layers)
            for stop in range(start + 1, min(start + 3, num_layers) + 1)
            if stop == start + 1 or rng.random() < 0.8
        }
        allowed = [runs for runs in compositions(num_layers) if all(run in damage for run in runs)]
        fewest = min(map(len, allowed))
        wanted = fewest if count is None else count
        sums = [sum(damage[run] for run in runs) for runs in allowed if len(runs) == wanted]
        if sums:
            chosen = partition(num_layers, damage, count)
            assert chosen in allowed
            assert len(chosen) == wanted
            assert isclose(sum(damage[run] for run in chosen), min(sums))
        else:
            with pytest.raises(BlockMapError, match=f"into {wanted} blocks"):
                partition(num_layers, damage, count)

    def test_keeps_the_layer_that_stands_best(self) -> None:
        damage = dict.fromkeys(candidates(4, 2), 1.0)
        damage[Block(1, 3, 2)] = 0.25
        damage[Block(1, 3, 1)] = 0.5
        expected = BlockMap.from_layers([[0], [1, 2], [3]], kept=[0, 2, 3])
        assert cheapest_layout(4, damage, blocks=3) == expected

    def test_no_count_is_the_fewest(self) -> None:
        damage = dict.fromkeys(candidates(7, 3), 1.0)
        assert len(cheapest_layout(7, damage)) == 3
        assert len(cheapest_layout(7, {})) == 7

    def test_an_impossible_count_names_the_possible_ones(self) -> None:
        with pytest.raises(BlockMapError, match="2 blocks that are allowed; 3, 4, 5 would do"):
            cheapest_layout(5, dict.fromkeys(candidates(5, 2), 1.0), blocks=2)

    def test_candidates_are_every_block_with_every_kept_layer(self) -> None:
        found = {(tuple(block.layers), block.kept) for block in candidates(4, 3)}
        runs = [(0, 1), (1, 2), (2, 3), (0, 1, 2), (1, 2, 3)]
        assert found == {(run, kept) for run in runs for kept in run}
