"""Choosing by load, on a simulated server: it settles, moves once for a step of load, and helps."""

import random
from collections import deque
from collections.abc import Callable

import pytest

from boomerang_core.sizes import SizeTable
from server.load.chooser import RISE_SECONDS, Chooser
from server.load.prediction import Latency
from server.load.tracker import Load
from server.sizing import Reason
from tests.unit.serving_simulation import (
    SIX,
    SLOTS,
    ClosedLoop,
    Simulation,
    always,
    auto,
    constant,
    ladder,
    observed,
)

TWO = ladder(60, 135)
WARM = 60.0
"""Seconds until the arrival rate is known."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("table", [TWO, SIX], ids=["two", "six"])
def test_with_little_load_everyone_gets_the_teacher(table: SizeTable, seed: int) -> None:
    simulation = Simulation(table, constant(2.0), seed=seed).run(200, auto)
    assert simulation.moves() == []
    assert simulation.mean_size() == len(simulation.table.rows) - 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [4.0, 10.0, 14.0])
def test_constant_load_settles(rate: float, seed: int) -> None:
    """With two sizes to choose from: at most the one move that the load asks for."""
    simulation = Simulation(TWO, constant(rate), seed=seed).run(240, auto)
    assert len(simulation.moves()) <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [8.0, 10.0])
def test_between_neighbours_moves_are_rare(rate: float, seed: int) -> None:
    """With six sizes and the load between two of them: not one request in two hundred moves."""
    simulation = Simulation(SIX, constant(rate), seed=seed).run(400, auto)
    assert len(simulation.moves(WARM)) <= len(simulation.choices) / 200


@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_load_moves_once_and_back_once(seed: int) -> None:
    simulation = Simulation(TWO, lambda now: 9.0 if 100 < now < 220 else 1.0, seed=seed)
    simulation.run(420, auto)
    assert simulation.moves() == [(1, 0), (0, 1)]
    down, up = (at for at, _ in simulation.changes())
    assert 100 < down < 125
    assert up > 220


@pytest.mark.parametrize("rate", [8.0, 14.0])
def test_it_attains_what_the_teacher_cannot_and_serves_more_than_the_student(rate: float) -> None:
    run = Simulation(SIX, constant(rate)).run(300, auto)
    teacher = Simulation(SIX, constant(rate)).run(300, always(5))
    assert run.attained(WARM) > 0.9
    assert teacher.attained(WARM) < 0.1
    if rate < 10:
        assert run.mean_size(WARM) > 1.5


def burst(load: float, seconds: float) -> Callable[[float], float]:
    """A minute of little load, a rest, then a burst; load 1 is what the teacher sustains here."""
    sustained = 5.5

    def rate(now: float) -> float:
        if now < 60:
            return 0.3 * sustained
        return load * sustained if 85 <= now < 85 + seconds else 1e-4

    return rate


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("seconds", [12, 30])
def test_a_burst_after_a_rest_is_seen_in_time(seconds: float, seed: int) -> None:
    """At twice the load of which the teacher serves nearly nobody in time.

    Those that came before it is seen run at the teacher, and delay the others until they end.
    """
    rate = burst(2.0, seconds)
    run = Simulation(SIX, rate, seed=seed).run(85 + seconds, auto)
    teacher = Simulation(SIX, rate, seed=seed).run(85 + seconds, always(5))
    assert teacher.attained(85) < 0.3
    assert run.attained(85) > (0.8 if seconds == 30 else 0.5)
    first = next(at for at, (_, size) in run.changes(85) if size < 5)
    assert first < 85 + 4
    assert len(run.moves(85)) <= 5


def test_what_the_teacher_just_sustains_it_mostly_gets() -> None:
    """Falls for chance cost no request its time, and the teacher few requests."""
    rate, seeds = burst(1.0, 30), range(10)
    runs = [Simulation(SIX, rate, seed=seed).run(115, auto) for seed in seeds]
    teachers = [Simulation(SIX, rate, seed=seed).run(115, always(5)) for seed in seeds]
    for run, teacher in zip(runs, teachers, strict=True):
        assert run.attained(85) >= teacher.attained(85) - 0.02
        assert len(run.moves(85)) <= 2
    assert sum(run.mean_size(85) for run in runs) / len(runs) > 0.9 * 5


@pytest.mark.parametrize("seed", range(10))
def test_half_the_load_after_a_rest_is_no_burst(seed: int) -> None:
    run = Simulation(SIX, burst(0.5, 60), seed=seed).run(145, auto)
    assert run.moves() == []
    assert run.mean_size() == 5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clients", [8, 12])
def test_clients_that_wait_for_their_answers_get_large_sizes_again(clients: int, seed: int) -> None:
    """Sixty for 40 s, then few, for whom the teacher is in time, though they then ask more seldom
    than they do of a small size."""
    crowd = ClosedLoop(SIX, lambda now: 60 if now < 40 else clients, seed=seed).run(180, auto)
    teacher = ClosedLoop(SIX, lambda now: 60 if now < 40 else clients, seed=seed)
    assert teacher.run(180, always(5)).attained(60) > 0.99
    assert crowd.mean_size(10) < crowd.mean_size(60)
    assert crowd.attained(60) > 0.99
    assert crowd.mean_size(60) > 0.85 * 5


def busy(chooser: Chooser, rate: float, since: float, until: float) -> None:
    """Requests arrive by chance, and each is in flight for three seconds."""
    flights, draw, now = deque[tuple[float, int]](), random.Random(1), since
    while (now := now + draw.expovariate(rate)) < until:
        while flights and flights[0][0] <= now:
            chooser.load.ended(flights.popleft()[1], now, (60, 40))
        size = chooser.choose(SIX.rows, SIX.rows, now)[0].size
        chooser.load.arrived(size, True, now)
        chooser.load.queued(0)
        flights.append((now + 3.0, size))


def rest(chooser: Chooser, now: float) -> None:
    """All requests end."""
    for size, count in list(chooser.load.in_flight.items()):
        for _ in range(count):
            chooser.load.ended(size, now, (60, 40))


def settled(rate: float, now: float = 100.0) -> Chooser:
    """A chooser that has measured steps and seen requests arrive at `rate` until `now`."""
    chooser = Chooser(SIX, Latency(1.0, 0.1), Load(), observed((0, 3, 5)), SLOTS)
    busy(chooser, rate, 0.0, now)
    return chooser


def test_reasons() -> None:
    rows = SIX.rows
    fresh = Chooser.of(SIX, Latency(1.0, 0.1), SLOTS)
    assert fresh.choose(rows, rows, 0.0) == (rows[5], Reason.AUTO_UNMEASURED)
    assert settled(1.0).choose(rows, rows, 100.0) == (rows[5], Reason.AUTO_LARGEST)
    middle, reason = settled(8.0).choose(rows, rows, 100.0)
    assert 0 < middle.size < 5
    assert reason in {Reason.AUTO_OBJECTIVE, Reason.AUTO_HELD}
    assert settled(8.0).choose(rows, rows[:1], 100.0) == (rows[0], Reason.AUTO_LARGEST)
    assert settled(25.0).choose(rows, rows[5:], 100.0) == (rows[5], Reason.AUTO_OVERLOAD)
    assert settled(200.0).choose(rows, rows, 100.0) == (rows[0], Reason.AUTO_OVERLOAD)


@pytest.mark.parametrize(
    ("rate", "floor", "reason"),
    [
        (8.0, 1, Reason.AUTO_HELD),
        (8.0, 5, Reason.AUTO_LARGEST),
        (12.0, 4, Reason.AUTO_OBJECTIVE),
        (14.0, 5, Reason.AUTO_OVERLOAD),
    ],
)
def test_the_reason_of_a_floor_above_the_level(rate: float, floor: int, reason: Reason) -> None:
    chooser, rows = settled(rate), SIX.rows
    chooser._level = 0
    assert chooser.preview(rows, rows[floor:], 100.0) == (rows[floor], reason)


def test_a_rise_is_held_until_there_was_room_for_long_enough() -> None:
    chooser, rows = settled(8.0), SIX.rows
    low = chooser.choose(rows, rows, 100.0)[0].size
    rest(chooser, 100.0)
    seen = []
    for second in range(1, 150):  # a request in three seconds from now on
        now = 100.0 + second
        if second % 3 == 0:
            chooser.load.arrived(0, True, now)
            chooser.load.queued(0)
            chooser.load.ended(0, now, (60, 40))
            row, reason = chooser.choose(rows, rows, now)
            seen.append((now, row.size, reason))
    assert (low, Reason.AUTO_HELD) in {(size, reason) for _, size, reason in seen}
    assert next(at for at, size, _ in seen if size > low) >= 100.0 + RISE_SECONDS
    assert seen[-1][1:] == (5, Reason.AUTO_LARGEST)


def test_rises_that_are_taken_back_wait_longer_and_longer() -> None:
    chooser, rows = settled(8.0), SIX.rows
    waits, now = [], 100.0
    for _ in range(7):
        rest(chooser, now)
        since = now
        while chooser.choose(rows, rows, now)[0].size < 5:  # nothing more arrives: there is room
            now += 1.0
        waits.append(now - since)
        for _ in range(60):  # a burst takes the rise back
            chooser.load.arrived(5, True, now)
            chooser.load.queued(0)
        assert chooser.choose(rows, rows, now)[0].size < 5
    assert waits[1:] == sorted(waits[1:])
    assert waits[-1] >= 8 * RISE_SECONDS


def test_a_full_kv_cache_delays_the_first_token() -> None:
    """30 requests of 384 tokens: 40 run at once by their number, 15 teachers by their memory."""
    rows = SIX.rows
    load = Load()
    for _ in range(30):
        load.arrived(5, True, 0.0)
    load.queued(0)
    held = [384 * count for count in (60, 50, 40, 30, 20, 15)]
    choosers = [
        Chooser(SIX, Latency(3.0, 1.0), load, observed((0, 3, 5)), 40, kv_tokens)
        for kv_tokens in (None, held)
    ]
    for chooser in choosers:
        chooser.load._prompt_tokens, chooser.load._output_tokens = 128, 256
    sizes = [chooser.preview(rows, rows, 60.0)[0].size for chooser in choosers]
    assert sizes[0] == 5
    assert 0 < sizes[1] < 5


def test_after_a_pause_it_rises_at_once() -> None:
    chooser, rows = settled(8.0), SIX.rows
    assert chooser.choose(rows, rows, 100.0)[0].size < 5
    rest(chooser, 100.0)
    assert chooser.choose(rows, rows, 400.0)[0].size == 5


def test_a_preview_changes_nothing() -> None:
    chooser, rows = settled(8.0), SIX.rows
    before = chooser.choose(rows, rows, 100.0)
    for _ in range(5):
        chooser.preview(rows, rows, 500.0)
    assert chooser.choose(rows, rows, 100.0) == before


def test_only_available_sizes_are_chosen() -> None:
    chooser, rows = settled(1.0), SIX.rows
    assert chooser.choose(rows[:3], rows[:3], 100.0)[0].size == 2
    assert chooser.choose(rows[2:4], rows[2:4], 100.0)[0].size == 3


def test_a_long_prompt_gets_a_smaller_size() -> None:
    chooser, rows = settled(2.0), SIX.rows
    assert chooser.choose(rows, rows, 100.0, prompt_tokens=60)[0].size == 5
    long, reason = chooser.choose(rows, rows, 100.0, prompt_tokens=3500)
    assert long.size < 5
    assert reason is Reason.AUTO_OBJECTIVE
    assert chooser.choose(rows, rows, 100.0, prompt_tokens=60)[0].size == 5
