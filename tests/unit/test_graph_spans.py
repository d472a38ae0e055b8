"""Which CUDA graphs a family needs, and which of them serves a step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang_core.memory_plan import Span
from server.engine.graph_spans import PROMPT_ROWS, ROWS, rows_to_capture, span_for, spans_to_capture


def test_each_offered_size_alone_and_from_the_smallest_up() -> None:
    assert spans_to_capture([0, 2, 5], Span(0, 5)) == (
        Span(0, 0),
        Span(2, 2),
        Span(5, 5),
        Span(0, 2),
        Span(0, 5),
    )


def test_only_what_is_held_and_always_the_largest_that_is() -> None:
    assert spans_to_capture([0, 2, 5], Span(1, 4)) == (
        Span(2, 2),
        Span(4, 4),
        Span(1, 2),
        Span(1, 4),
    )
    assert spans_to_capture([0, 2, 5], Span(3, 3)) == (Span(3, 3),)


def test_a_size_of_its_own_before_a_mix() -> None:
    captured = spans_to_capture([0, 2, 5], Span(0, 5))
    assert span_for(captured, 2, 2) == Span(2, 2)
    assert span_for(captured, 0, 0) == Span(0, 0)
    assert span_for(captured, 1, 2) == Span(0, 2)
    assert span_for(captured, 1, 1) == Span(0, 2)  # not offered, but asked for by its layers
    assert span_for(captured, 0, 3) == Span(0, 5)


def test_no_span_for_what_is_not_held() -> None:
    assert span_for(spans_to_capture([0, 5], Span(0, 5)), 6, 6) is None
    assert span_for((), 0, 0) is None


@given(
    offered=st.sets(st.integers(0, 8)),
    ends=st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted),
    data=st.data(),
)
def test_every_step_of_held_sizes_has_a_span(
    offered: set[int], ends: list[int], data: st.DataObject
) -> None:
    held = Span(*ends)
    sizes = data.draw(st.lists(st.integers(held.smallest, held.largest), min_size=1, max_size=4))
    span = span_for(spans_to_capture(offered, held), min(sizes), max(sizes))
    assert span is not None
    assert all(size in span for size in sizes)
    assert held.smallest <= span.smallest
    assert span.largest <= held.largest


@pytest.mark.parametrize(
    ("most", "rows"),
    [
        (1, [1]),
        (16, [1, 2, 4, 8, 16]),
        (20, [1, 2, 4, 8, 16, 20]),
        (10_000, list(ROWS)),
        (None, list(ROWS)),
    ],
)
def test_rows_up_to_the_requests_that_run_at_once(most: int | None, rows: list[int]) -> None:
    assert rows_to_capture(most, prompts=False) == rows
    assert rows_to_capture(most, prompts=True) == sorted({*rows, *PROMPT_ROWS})
