"""Layouts as partitions, against every possibility tried."""

import random
from math import isclose

import pytest

from boomerang_core.blocks import Block, BlockMap
from boomerang_core.errors import BlockMapError
from boomerang_core.search.partition import candidates, cheapest_layout, partition
from tests.unit.ladder_tables import SEEDS


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
