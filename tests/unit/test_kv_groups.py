"""Which layers keep their keys and values together."""

import random

import pytest

from boomerang_core.blocks import BlockMap
from boomerang_core.kv_groups import choose_groups, layer_ranks, split_layers
from boomerang_core.ladder import ALWAYS_TEACHER, Ladder
from boomerang_core.route import FamilyDesign, Owner, StudentKind, build_route


def random_design(seed: int) -> FamilyDesign:
    """Blocks of one to three layers, any of them kept, patched in any order, some together."""
    generator = random.Random(seed)
    blocks: list[list[int]] = []
    while len(blocks) < 8:
        start = blocks[-1][-1] + 1 if blocks else 0
        blocks.append(list(range(start, start + generator.randint(1, 3))))
    kept = [generator.choice(block) for block in blocks]
    shared = [block[0] for block in blocks if len(block) == 1 and generator.random() < 0.5]
    order = list(range(len(blocks)))
    generator.shuffle(order)
    steps = (tuple(order[:2]), *((block,) for block in order[2:]))
    block_map = BlockMap.from_layers(blocks, kept, shared)
    return FamilyDesign(block_map, Ladder(len(blocks), steps), StudentKind.LOWRANK)


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_is_needed_above_its_rank_as_the_routes_say(seed: int) -> None:
    design = random_design(seed)
    ranks = layer_ranks(design)
    for size in range(design.ladder.num_sizes):
        route = build_route(design, size).layers
        needed = {
            ref.index if ref.owner is Owner.TEACHER else design.block_map[ref.index].kept
            for ref in route
        }
        assert needed == {layer for layer, rank in enumerate(ranks) if rank < size}
        assert len(needed) == len(route)


@pytest.mark.parametrize("seed", range(20))
def test_a_size_holds_every_layer_that_it_runs_and_less_than_a_block_more(seed: int) -> None:
    design = random_design(seed)
    ranks = layer_ranks(design)
    for count in range(1, len(ranks) + 1):
        groups = split_layers(ranks, count)
        assert sorted(layer for group in groups.layers for layer in group) == [*range(len(ranks))]
        lengths = {len(group) for group in groups.layers}
        assert max(lengths) - min(lengths) <= 1
        for size in range(design.ladder.num_sizes):
            held = {
                layer
                for group, rank in zip(groups.layers, groups.ranks, strict=True)
                if rank < size
                for layer in group
            }
            needed = {layer for layer, rank in enumerate(ranks) if rank < size}
            assert needed <= held
            assert len(held - needed) < groups.layers_per_block
            assert groups.held(size) >= len(held)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_wastes_less(seed: int) -> None:
    ranks = layer_ranks(random_design(seed))
    smallest, top = ranks.count(ALWAYS_TEACHER), max(ranks) + 1
    chosen = choose_groups(ranks, most=6)

    def waste(count: int) -> float:
        groups = split_layers(ranks, count)
        return groups.held(0) / smallest * groups.held(top) / len(ranks)

    lengths = [len(group) for group in chosen.layers]
    assert max(lengths) == min(lengths) or max(lengths) < 1.5 * min(lengths)
    for count in range(1, 7):
        if len(ranks) // count >= 3 or len(ranks) % count == 0:  # else vLLM would cut it again
            assert waste(len(chosen.layers)) <= waste(count)


def test_thirty_layers_with_seventeen_in_the_student_make_five_groups_without_padding() -> None:
    groups = choose_groups([ALWAYS_TEACHER] * 17 + list(range(13)))
    assert [len(group) for group in groups.layers] == [6] * 5
    assert (groups.held(0), groups.held(1), groups.held(2), groups.held(13)) == (18, 18, 24, 30)


def test_where_every_size_runs_every_layer_there_is_one_group() -> None:
    groups = choose_groups([ALWAYS_TEACHER] * 8)
    assert groups.layers == (tuple(range(8)),)
