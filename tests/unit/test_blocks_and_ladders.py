"""Block maps and ladders against the paper's layouts (arXiv 2510.05064, facts of its code)."""

import pytest

from boomerang_core.blocks import Block, BlockMap
from boomerang_core.errors import BlockMapError, LadderError
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, LayerRef, Owner, StudentKind, build_route


def teacher(*layers: int) -> list[LayerRef]:
    return [LayerRef(Owner.TEACHER, layer) for layer in layers]


def student(*blocks: int) -> list[LayerRef]:
    return [LayerRef(Owner.STUDENT, block) for block in blocks]


@pytest.mark.parametrize(("layers", "students"), [(36, 19), (32, 17), (5, 3), (1, 1)])
def test_every_second_and_last_counts(layers: int, students: int) -> None:
    block_map = BlockMap.every_second_and_last(layers)
    assert len(block_map) == students
    assert block_map[students - 1].kept == layers - 1


def test_llama_layout_keeps_the_first_two() -> None:
    block_map = BlockMap.first_two_then_every_second(28)
    assert [block.kept for block in block_map] == [0, 1, *range(2, 28, 2)]
    assert len(block_map) == 15


def test_student_config_gives_the_same_map() -> None:
    kept = [*range(0, 36, 2), 35]
    config = {
        "copied_teacher_layers": kept,
        "pruned_teacher_layers": sorted(set(range(36)) - set(kept)),
    }
    assert BlockMap.from_student_config(config, 36) == BlockMap.every_second_and_last(36)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"copied_teacher_layers": "all"},
        {"copied_teacher_layers": [0, 2], "pruned_teacher_layers": [1]},
        {"copied_teacher_layers": [1, 2]},
        {"copied_teacher_layers": [0, 99]},
    ],
)
def test_bad_student_config_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(BlockMapError):
        BlockMap.from_student_config(config, 4)


@pytest.mark.parametrize(
    "layers", [[[0], [2]], [[0, 1], [1, 2]], [[1], [2]], [[0, 2], [3]], [[0], []], []]
)
def test_layers_that_do_not_partition_are_refused(layers: list[list[int]]) -> None:
    with pytest.raises(BlockMapError):
        BlockMap.from_layers(layers)


def test_only_one_layer_blocks_are_shared() -> None:
    with pytest.raises(BlockMapError):
        Block(0, 2, 0, shared=True)
    with pytest.raises(BlockMapError):
        BlockMap.from_layers([[0], [1, 2]], shared=[1])


def test_kept_layer_may_be_any_of_its_block() -> None:
    block_map = BlockMap.from_layers([[0], [1, 2, 3]], kept=[0, 2], shared=[0])
    assert block_map[1].kept == 2
    assert BlockMap.from_json(block_map.to_json()) == block_map


def test_reference_ladder_of_qwen3_4b() -> None:
    """k ≤ 16: student[0:17−k] + teacher[34−2k:36]; k = 17 is the teacher."""
    block_map = BlockMap.every_second_and_last(36)
    design = FamilyDesign(block_map, Ladder.last_to_first(block_map), StudentKind.FULL, True)
    assert design.ladder.num_sizes == 18
    assert build_route(design, 0).layers == tuple(student(*range(19)))
    for k in range(1, 17):
        expected = student(*range(17 - k)) + teacher(*range(34 - 2 * k, 36))
        assert list(build_route(design, k).layers) == expected
    assert list(build_route(design, 17).layers) == teacher(*range(36))


def test_reference_ladder_of_llama_takes_the_first_two_along() -> None:
    block_map = BlockMap.first_two_then_every_second(28)
    ladder = Ladder.first_to_last(block_map)
    assert ladder.steps[0] == (0, 1, 2)
    assert ladder.num_sizes == 14
    assert Ladder.last_to_first(block_map).steps[-1] == (2, 1, 0)


def test_a_step_beyond_the_ladder_is_refused() -> None:
    ladder = Ladder.first_to_last(BlockMap.every_second_and_last(6))
    for size in (-1, ladder.num_sizes):
        with pytest.raises(LadderError):
            ladder.patched(size)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 2, 2], [0, 1, 7]])
def test_orders_that_miss_a_block_are_refused(order: list[int]) -> None:
    with pytest.raises(LadderError):
        Ladder.from_order(BlockMap.every_second_and_last(5), order)


def test_ranks_say_when_a_block_turns() -> None:
    block_map = BlockMap.from_layers([[0, 1], [2, 3], [4, 5]])
    ladder = Ladder.from_order(block_map, [1, 2, 0])
    for size in range(ladder.num_sizes):
        patched = {block for block, rank in enumerate(ladder.ranks) if size > rank}
        assert ladder.patched(size) == patched


def test_owners_of_embedding_and_head_follow_the_ends() -> None:
    block_map = BlockMap.from_layers([[0, 1], [2, 3]])
    design = FamilyDesign(block_map, Ladder.last_to_first(block_map), StudentKind.FULL, True)
    ends = [(route.embedding, route.head) for route in (build_route(design, k) for k in range(3))]
    assert ends == [
        (Owner.STUDENT, Owner.STUDENT),
        (Owner.STUDENT, Owner.TEACHER),
        (Owner.TEACHER, Owner.TEACHER),
    ]


def test_shared_blocks_are_always_the_teachers() -> None:
    block_map = BlockMap.from_layers([[0], [1, 2]], shared=[0])
    design = FamilyDesign(block_map, Ladder.last_to_first(block_map), StudentKind.LOWRANK)
    assert list(build_route(design, 0).layers) == teacher(0) + student(1)
