"""Step plans: which rows are whose, in plain numbers."""

import random

from boomerang_core.blocks import BlockMap
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, LayerRef, Owner, StudentKind, build_route
from server.engine.plan import Ranks, Rows, Side, Split, build_plan, largest_first

MAP = BlockMap.from_layers([[0, 1], [2], [3, 4], [5]], kept=[1, 2, 3, 5], shared=[2])
LADDER = Ladder(4, ((2,), (0, 1), (3,)))


def design(kind: StudentKind = StudentKind.FULL, own_embeddings: bool = True) -> FamilyDesign:
    return FamilyDesign(MAP, LADDER, kind, own_embeddings)


def test_ranks_follow_the_ladder_and_the_owners_of_both_ends() -> None:
    ranks = Ranks.of(design())
    assert ranks.blocks == (1, -1, 0, 2)
    assert (ranks.embedding, ranks.head, ranks.teacher_size) == (1, 2, 3)


def test_without_own_embeddings_both_ends_are_always_the_teachers() -> None:
    ranks = Ranks.of(design(StudentKind.LOWRANK, own_embeddings=False))
    assert (ranks.embedding, ranks.head) == (-1, -1)


def test_a_mixed_step_has_one_split_per_block_in_any_ladder_order() -> None:
    plan = build_plan(Ranks.of(design()), sizes=[3, 2, 1, 0], tokens=[5, 1, 7, 1])
    assert plan.blocks == (Split(2, 6), Split(4, 14), Split(3, 13), Split(1, 5))
    assert (plan.embedding, plan.head_tokens, plan.head_rows) == (6, 5, 1)


def test_a_side_without_rows_does_not_run() -> None:
    ranks = Ranks.of(design())
    mixed = build_plan(ranks, sizes=[3, 0], tokens=[1, 1])
    assert all(mixed.runs(0, side) for side in Side)
    student = build_plan(ranks, sizes=[0], tokens=[1])
    teacher = build_plan(ranks, sizes=[3], tokens=[1])
    assert [student.runs(0, side) for side in Side] == [True, False, True]
    assert [teacher.runs(0, side) for side in Side] == [True, True, False]


def test_rows_of_a_side() -> None:
    plan = build_plan(Ranks.of(design()), sizes=[3, 2, 1, 0], tokens=[5, 1, 7, 1])
    assert plan.rows(0, Side.TEACHER) == Rows(0, 2, 0, 6)
    assert plan.rows(0, Side.STUDENT) == Rows(2, 4, 6, 14)
    assert plan.rows(0, Side.ALL) is None
    assert plan.rows(1, Side.TEACHER) is None  # shared: the whole step


def test_a_step_of_one_size_is_not_cut() -> None:
    for size in range(4):
        plan = build_plan(Ranks.of(design()), [size] * 3, [4, 1, 1])
        assert {plan.rows(b, s) for b in range(4) for s in Side} == {None}


def test_logits_rows_can_be_more_than_one_a_request() -> None:
    plan = build_plan(Ranks.of(design()), [3, 3, 0], [4, 4, 4], logits_rows=[3, 2, 1])
    assert plan.head_rows == 5


def test_every_request_meets_exactly_the_owners_of_its_route() -> None:
    generator = random.Random(0)
    family = design()
    ranks = Ranks.of(family)
    for _ in range(200):
        sizes = sorted(generator.choices(range(4), k=generator.randint(1, 9)), reverse=True)
        tokens = [generator.randint(1, 6) for _ in sizes]
        plan = build_plan(ranks, sizes, tokens)
        for request, size in enumerate(sizes):
            layers = build_route(family, size).layers
            for index, split in enumerate(plan.blocks):
                is_teacher = request < split.requests
                expected = LayerRef(Owner.TEACHER, MAP[index].start) in layers
                assert is_teacher is expected


def test_swaps_bring_requests_into_order() -> None:
    generator = random.Random(1)
    for _ in range(200):
        sizes = [generator.randint(0, 3) for _ in range(generator.randint(1, 12))]
        places = list(sizes)
        for first, second in largest_first(sizes):
            places[first], places[second] = places[second], places[first]
        assert places == sorted(sizes, reverse=True)
        assert len(largest_first(sizes)) < len(sizes)


def test_a_sorted_step_needs_no_swap() -> None:
    assert largest_first([3, 3, 1, 0]) == []
    assert largest_first([]) == []


def test_one_that_comes_last_costs_a_swap_for_each_size_below_it() -> None:
    sorted_before = [2] * 20 + [1] * 20 + [0] * 20
    assert len(largest_first([*sorted_before, 2])) == 2
    assert len(largest_first([*sorted_before, 0])) == 0
    gone = [*sorted_before[:5], 0, *sorted_before[6:-1]]  # vLLM puts the last in a gap
    assert len(largest_first(gone)) == 2
