"""Ladders as shortest paths, against every possibility tried."""

import random
from collections.abc import Sequence
from itertools import permutations
from math import isclose

import pytest

from boomerang_core.errors import LadderError, SettingsError
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, route_of_set
from boomerang_core.search.ladders import lattice_of
from boomerang_core.search.lattice import STUDENT, Lattice, area
from boomerang_core.search.path import Asked, greedy, lower_bound, shortest_path
from tests.unit.ladder_tables import LENGTHS, SEEDS, Table, design_of


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
