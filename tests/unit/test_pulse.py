"""When a step of the engine began, as far as that can be known."""

import pytest

from server.engine.pulse import LONGEST_READING, Pulse
from server.process.watchdog import Watchdog


def test_a_step_begins_where_the_one_before_ended() -> None:
    pulse = Pulse()
    assert [pulse.stepped(now, True) for now in (1.0, 1.5, 2.5)] == [None, 1.0, 1.5]
    assert pulse.stepped(3.0, False) == 2.5
    assert pulse.stepped(9.0, True) is None  # after a rest
    assert pulse.steps == 5


@pytest.mark.parametrize("told_late", [False, True])
def test_the_reading_of_weights_is_no_part_of_a_step(told_late: bool) -> None:
    """The next step may be seen before the engine's answer, that it has read, is."""
    pulse = Pulse()
    pulse.stepped(1.0, True)
    with pulse.reads_weights():
        assert pulse.reading
        if told_late:
            assert pulse.stepped(60.0, True) is None
    assert not pulse.reading
    assert pulse.stepped(60.5, True) is None
    assert pulse.stepped(61.0, True) == 60.5


def test_weights_that_cannot_be_read_leave_no_mark() -> None:
    pulse = Pulse()
    pulse.stepped(1.0, True)
    with pytest.raises(OSError, match="gone"), pulse.reads_weights():
        raise OSError("gone")
    assert not pulse.reading
    assert pulse.stepped(60.0, True) is None


def test_an_engine_that_hangs_while_it_reads_is_seen() -> None:
    """By who waits for it, once it has read for longer than any size takes."""
    now = 0.0
    pulse, watchdog = Pulse(clock=lambda: now), Watchdog(30.0, clock=lambda: now)
    seen = None
    with pulse.reads_weights():
        while seen is None and now < 2 * LONGEST_READING:
            now += 1.0
            progress = None if pulse.reading else pulse.steps  # as the client says it
            seen = now if watchdog.is_hung(progress) else None
        assert seen is not None
        assert LONGEST_READING + 30 <= seen <= LONGEST_READING + 32
        assert pulse.stepped(now, True) is None  # still no part of a step
