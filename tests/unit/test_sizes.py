"""The size grammar, budgets and footprints."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import BoomerangError, BudgetError, SizeError, UnknownSizeError
from boomerang_core.family import build_rows
from boomerang_core.footprint import ModelShape, kv_bytes_per_token, resident_params, route_params
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind, build_route
from boomerang_core.sizes import (
    SizeTable,
    format_bytes,
    format_params,
    parse_bytes,
    shorten,
    unique_ids,
)

SHAPE = ModelShape(
    num_layers=6,
    hidden_size=8,
    num_kv_heads=2,
    head_dim=4,
    layer_params=10_000_000,
    embedding_params=30_000_000,
    head_params=30_000_000,
    norm_params=8,
    tied=True,
)


def design(own_embeddings: bool = False) -> FamilyDesign:
    block_map = BlockMap.from_layers([[0, 1], [2, 3], [4, 5]])
    return FamilyDesign(
        block_map, Ladder.last_to_first(block_map), StudentKind.FULL, own_embeddings
    )


TABLE = SizeTable("tiny", build_rows(design(), SHAPE, offered=frozenset({0, 2, 3})))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("300MiB", 300 << 20),
        ("1.5GB", 1_500_000_000),
        ("2Gi", 2 << 30),
        (4096, 4096),
        (524288000.0, 524288000),
        ("7 kb", 7000),
    ],
)
def test_bytes(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "0", "1e9", "12XB", "nan", "1,5GB", "٣MiB", True, None, 1.5, [1]]
)
def test_bad_bytes_name_the_field(text: object) -> None:
    with pytest.raises(SizeError) as caught:
        parse_bytes(text)
    assert caught.value.param == "memory_budget"
    assert f"got {text!r}" in str(caught.value)


@given(st.integers(1, 1 << 50))
def test_formatted_bytes_are_enough(amount: int) -> None:
    assert parse_bytes(format_bytes(amount)) >= amount


@pytest.mark.parametrize(
    ("params", "name"), [(106_000_000, "106m"), (1_900_000_000, "1.9b"), (999_900_000, "1.0b")]
)
def test_params_names(params: int, name: str) -> None:
    assert format_params(params) == name


def test_names_grow_until_unique() -> None:
    assert unique_ids([1_910_000_000, 1_940_000_000]) == ("1.91b", "1.94b")
    with pytest.raises(SizeError):
        unique_ids([5, 5])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("student", 0),
        ("TEACHER", 3),
        ("60m", 0),
        ("85m", 2),
        ("0.1b", 3),
        ("4L", 1),
        ("0.9", 2),
        ("75%", 0),
        ("1.0", 3),
        ("100%", 3),
        (0.9, 2),
        (0.7, 0),
        (1, 3),
        (1.0, 3),
    ],
)
def test_targets(text: object, size: int) -> None:
    assert TABLE.target(text).size == size


def test_a_share_is_the_same_as_a_number_and_as_text() -> None:
    for share in (0.7, 0.1 + 0.2, 1e-9, 1):
        number = TABLE.params_of(share)
        assert float(number) == pytest.approx(share * TABLE.teacher.params)
    assert TABLE.params_of(0.7) == TABLE.params_of("0.7")


@pytest.mark.parametrize("number", [106, 1.5, 0, -0.0, -0.5, 10**400])
def test_another_number_is_told_what_it_may_be(number: float) -> None:
    for ask in (TABLE.target, TABLE.params_of):
        with pytest.raises(SizeError, match=r"above 0 and at most 1, got .* text such as '106m'"):
            ask(number)


@pytest.mark.parametrize("text", ["59m", "0.1", 0.1, "9L", "1%"])
def test_targets_below_the_family(text: object) -> None:
    with pytest.raises(UnknownSizeError):
        TABLE.target(text)


@pytest.mark.parametrize(
    "text",
    ["", "big", "106", "-5m", "1.5", "0%", "0.0", "nanb", "🙂", 5, None, True, math.nan, math.inf],
)
def test_targets_outside_the_grammar(text: object) -> None:
    with pytest.raises(SizeError):
        TABLE.target(text)


@given(st.text())
def test_any_text_gives_a_row_or_one_of_our_errors(text: str) -> None:
    asks: list[Callable[[str], object]] = [TABLE.target, TABLE.named, parse_bytes]
    for ask in asks:
        try:
            ask(text)
        except BoomerangError as error:
            message = str(error)
        else:
            continue
        assert "\n" not in message


def test_names_are_exact_and_only_offered() -> None:
    assert TABLE.named("80m").size == 2
    for name in ("70m", "81m"):
        with pytest.raises(UnknownSizeError, match="60m, 80m, 90m"):
            TABLE.named(name)
    assert TABLE.named("4L").size == 1


def test_a_budget_takes_the_largest_that_fits() -> None:
    for row in TABLE.offered:
        need = row.footprint_bytes(1024)
        assert TABLE.within(need, 1024) == row
        if row is not TABLE.student:
            assert TABLE.within(need - 1, 1024).size < row.size
    with pytest.raises(BudgetError, match="smallest, 60m"):
        TABLE.within(TABLE.student.footprint_bytes(1024) - 1, 1024)


def test_tied_heads_count_twice_where_the_owners_differ() -> None:
    own = design(own_embeddings=True)
    params = [route_params(SHAPE, build_route(own, size)) for size in range(4)]
    assert params == [60_000_008, 100_000_008, 110_000_008, 90_000_008]


def test_kv_and_resident() -> None:
    assert kv_bytes_per_token(SHAPE, 6) == 2 * 6 * 2 * 4 * 2
    assert resident_params(SHAPE, 5) == 90_000_008 + 5


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 50, "'" + "x" * 39 + "…'"),
        ("it's " * 10, '"' + "it's " * 7 + "it's…\""),
        ([1] * 50, "[" + "1, " * 13 + "…"),
        ("short", "'short'"),
    ],
)
def test_what_is_cut_is_quoted_on_both_sides_or_on_none(value: object, shown: str) -> None:
    assert shorten(value) == shown
