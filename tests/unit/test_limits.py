"""What is counted and bounded: places in the queue, requests of a key, choices, stop strings."""

from typing import Any

import pytest

from server.guard.limits import Limits, count_choices
from server.guard.slots import RequestSlots, RequestsPerKey, Slots
from server.settings import Settings, read_settings
from server.web.errors import RefusedError


def test_slots_and_turns_count_exactly() -> None:
    slots, per_key = Slots(5), RequestsPerKey(2)
    first, other = RequestSlots(slots), RequestSlots(slots)
    first.take(2)
    first.take(3)
    with pytest.raises(RefusedError):
        other.take(1)
    other.release()
    assert slots.taken == 5
    first.release()
    first.release()
    assert slots.taken == 0
    two = (per_key.of(0), per_key.of(0))
    with (
        two[0],
        two[1],
        per_key.of(1),
        per_key.of(None),
        pytest.raises(RefusedError),
        per_key.of(0),
    ):
        pass
    with per_key.of(0), per_key.of(0):
        pass


@pytest.mark.parametrize(
    ("n", "prompt", "choices"),
    [
        (None, "text", 1),
        (3, "text", 3),
        (0, "text", 1),
        (2, [1, 2, 3], 2),
        (2, ["a", "b", "c"], 6),
        (1, [[1, 2], [3]], 2),
        (4, [], 4),
        (2, None, 2),
    ],
)
def test_choices_are_counted(n: int | None, prompt: Any, choices: int) -> None:
    assert count_choices(n, prompt) == choices


def test_limits_of_settings() -> None:
    limits = Limits.of(Settings(max_num_seqs=2, max_waiting=3, max_choices=100))
    assert (limits.choices, limits.sequences) == (5, 5)
    limits.check(5, ["x"] * 16)
    for choices, stop, param in ((6, None, "n"), (1, ["x"] * 17, "stop")):
        with pytest.raises(RefusedError) as refused:
            limits.check(choices, stop)
        assert (refused.value.status_code, refused.value.param) == (400, param)


def test_one_stop_string_need_not_be_in_a_list() -> None:
    none, one = (Limits.of(read_settings(max_stop_strings=most)) for most in (0, 1))
    for stop in (None, "", []):
        none.check(1, stop)
    one.check(1, "x")
    with pytest.raises(RefusedError, match="1 stop strings are too many; at most 0"):
        none.check(1, "x")
