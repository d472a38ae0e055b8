"""Choosing by load, on a simulated server: it settles, moves once for a step of load, and helps."""

import math
import random
from collections import deque
from collections.abc import Callable, Mapping

import pytest

from boomerang_core.sizes import SizeTable
from server.load.chooser import RISE_SECONDS, Chooser, Objective, predict
from server.load.costs import ENOUGH_STEPS, Step, StepCosts
from server.load.tracker import Arrivals, Demand, Load
from server.sizing import Reason
from tests.unit.serving_simulation import MB, SLOTS, Simulation, Truth, always, auto, ladder

TWO = ladder(60, 135)
SIX = ladder(60, 75, 90, 105, 120, 135)
SHARES = [row.params / (135 * MB) for row in SIX.rows]
WARM = 60.0
"""Seconds until the arrival rate is known."""


def constant(rate: float) -> Callable[[float], float]:
    return lambda now: rate


# ---- costs ----------------------------------------------------------------------------------


def observed(sizes: tuple[int, ...], steps: int = 400, seed: int = 0) -> StepCosts:
    """Costs learned from decode steps of some sizes, each with a prompt now and then."""
    costs, truth, draw = StepCosts(SHARES), Truth(SHARES, noise=0.05), random.Random(seed)
    for _ in range(steps):
        size, rows = draw.choice(sizes), draw.randrange(1, 32)
        prompt = draw.choice((0, 0, 0, 60))
        took = truth.overhead + SHARES[size] * (
            truth.weights + truth.row * rows + truth.prompt * prompt
        )
        costs.observe(Step({size: rows}, {size: prompt}, took * draw.lognormvariate(0, 0.05)))
    return costs


def test_costs_of_measured_sizes_are_learned() -> None:
    costs, truth = observed((0, 3, 5)), Truth(SHARES)
    for size in (0, 3, 5):
        for rows in (4, 30):
            true = truth.overhead + SHARES[size] * (truth.weights + truth.row * rows)
            learned = costs.at(size).weights + rows * costs.at(size).row
            assert learned == pytest.approx(true, rel=0.15)


def test_costs_of_a_size_that_was_never_run_follow_from_its_share() -> None:
    costs, truth = observed((5,)), Truth(SHARES)
    for size in range(6):
        true = truth.overhead + SHARES[size] * (truth.weights + truth.row * 16)
        assert costs.at(size).weights + 16 * costs.at(size).row == pytest.approx(true, rel=0.25)


def test_larger_sizes_cost_more_before_anything_is_known() -> None:
    costs = StepCosts(SHARES)
    assert not costs.is_measured
    for _ in range(ENOUGH_STEPS):
        costs.observe(Step({5: 4}, {}, 0.1))
    weights = [costs.at(size).weights for size in range(6)]
    assert costs.is_measured
    assert weights == sorted(weights)
    assert 0 < weights[0] < weights[-1] < 0.1


def test_a_step_that_took_forever_moves_little() -> None:
    costs = observed((5,))
    before = costs.at(5).row
    costs.observe(Step({5: 16}, {}, 1000.0))
    assert costs.at(5).row < 2 * before


def test_costs_stay_learned_over_many_steps() -> None:
    """Rounding does not add up: a fit that loses its symmetry ends in nonsense."""
    costs, truth = observed((0,), steps=30_000), Truth(SHARES)
    true = truth.overhead + SHARES[0] * (truth.weights + truth.row * 16)
    assert costs.at(0).weights + 16 * costs.at(0).row == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_noise_does_not_drive_a_cost_away(seed: int) -> None:
    """Few rows tell weights from rows badly; a row near nothing must not lift the weights."""
    costs, truth, draw = StepCosts(SHARES), Truth(SHARES), random.Random(seed)
    for number in range(600):
        rows, prompt = 1 + number // 20 % 3, 60 if number % 20 == 0 else 0
        took = truth.overhead + truth.weights + truth.row * rows + truth.prompt * prompt
        costs.observe(Step({5: rows}, {5: prompt}, took * draw.lognormvariate(0, 0.4)))
        if number > 100:
            learned = costs.at(5).weights + rows * costs.at(5).row
            true = truth.overhead + truth.weights + truth.row * rows
            assert 0.5 < learned / true < 2.0


def test_what_mixing_costs_is_learned() -> None:
    costs, truth, draw = observed((0, 5)), Truth(SHARES), random.Random(0)
    assert costs.mixed == 1.0
    for _ in range(400):
        rows = {0: draw.randrange(8), 5: draw.randrange(1, 8)}
        took = truth.overhead + truth.weights
        took += sum(truth.row * SHARES[size] * count for size, count in rows.items())
        took *= truth.mixed if rows[0] else 1.0
        costs.observe(Step(rows, {}, took * draw.lognormvariate(0, 0.05)))
    assert costs.mixed == pytest.approx(truth.mixed, abs=0.07)


@pytest.mark.parametrize("step", [Step({}, {}, 1.0), Step({5: 0}, {}, 1.0), Step({5: 1}, {}, 0.0)])
def test_a_step_that_says_nothing_teaches_nothing(step: Step) -> None:
    costs = observed((5,))
    before = (costs.measured, costs.at(5))
    costs.observe(step)
    assert (costs.measured, costs.at(5)) == before


# ---- the prediction ---------------------------------------------------------------------------


STEADY = 30
"""Answers' times after which a simulated load has long been what it will be."""


def demand(rate: float, waiting: int = 0, in_flight: Mapping[int, int] | None = None) -> Demand:
    return Demand(rate, {}, in_flight or {}, waiting, prompt_tokens=60, output_tokens=40)


@pytest.mark.parametrize("rate", [1.0, 4.0])
@pytest.mark.parametrize("size", [0, 5])
def test_the_steady_state_is_the_simulated_one(size: int, rate: float) -> None:
    """Tokens of the last minutes took what the formula says, from costs learned on the way."""
    simulation = Simulation(SIX, constant(rate)).run(300, always(size))
    latency = predict(simulation.chooser.costs, demand(rate), size, SLOTS, 60, later=STEADY)
    assert latency.token_seconds == pytest.approx(simulation.mean_token_seconds(WARM), rel=0.2)


def test_latency_grows_with_load_and_with_size() -> None:
    costs = observed((0, 3, 5))
    by_rate = [predict(costs, demand(rate), 5, SLOTS, 60).token_seconds for rate in (0, 2, 5, 50)]
    assert by_rate == sorted(by_rate)
    assert by_rate[-1] == math.inf
    by_size = [predict(costs, demand(3), size, SLOTS, 60).token_seconds for size in range(6)]
    assert by_size == sorted(by_size)


def test_beyond_what_a_size_sustains_requests_are_later_and_later() -> None:
    costs = observed((5,))
    later = [predict(costs, demand(9.0), 5, SLOTS, 60, k).first_token_seconds for k in range(8)]
    assert later == sorted(later)
    assert later[-1] > 2 * later[0]


def test_a_badly_known_rate_moves_the_next_answer_less_than_the_steady_state() -> None:
    """What makes a fall wait for a crowd, not for a clump of arrivals."""
    costs, crowd = observed((5,)), {5: 12}

    def grown(later: int) -> float:
        known, thought = (
            predict(costs, demand(rate, in_flight=crowd), 5, SLOTS, 60, later).token_seconds
            for rate in (5.0, 6.5)
        )
        return thought / known - 1

    assert grown(0) < 0.15
    assert grown(STEADY) > 2 * grown(0)


def test_what_runs_at_a_larger_size_delays_a_smaller_one_until_it_ends() -> None:
    costs = observed((0, 5))
    alone = predict(costs, demand(3), 0, SLOTS, 60)
    beside = [predict(costs, demand(3, in_flight={5: 8}), 0, SLOTS, 60, k) for k in (0, 2, STEADY)]
    assert beside[0].token_seconds > 1.5 * alone.token_seconds
    steady = predict(costs, demand(3), 0, SLOTS, 60, STEADY)
    assert beside[2].token_seconds == pytest.approx(steady.token_seconds, rel=0.01)
    costs.mixed = 1.2
    dearer = predict(costs, demand(3, in_flight={5: 8}), 0, SLOTS, 60)
    assert dearer.token_seconds > beside[0].token_seconds


def test_a_longer_prompt_and_a_queue_delay_the_first_token_only() -> None:
    costs = observed((5,))
    plain = predict(costs, demand(1), 5, SLOTS, 60)
    for other in (
        predict(costs, demand(1), 5, SLOTS, 600),
        predict(costs, demand(1, waiting=9), 5, SLOTS, 60),
    ):
        assert other.first_token_seconds > plain.first_token_seconds
        assert other.token_seconds == plain.token_seconds


def test_requests_that_name_a_size_count_as_they_are() -> None:
    costs = observed((0, 5))
    alone = predict(costs, demand(1), 0, SLOTS, 60)
    beside = Demand(1, {5: 2.0}, {5: 4}, 0, 60, 40)
    assert predict(costs, beside, 0, SLOTS, 60).token_seconds > 1.5 * alone.token_seconds


# ---- choosing ---------------------------------------------------------------------------------


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


def test_many_answers_at_once_are_one_arrival() -> None:
    """Eight requests of eight answers each are no surer a burst than eight of one each."""
    one, eight = Arrivals(), Arrivals()
    for number in range(8):
        one.add(1, number / 8)
        eight.add(8, number / 8)
    assert eight.rate(1.0) == pytest.approx(8 * one.rate(1.0))
    assert one.rate(1.0) == pytest.approx(6 / 2 * (1 - 1.5 / math.sqrt(6)))
    assert one.rate(1.0, 0.0) == pytest.approx(6 / 2)
    assert one.rate(1.0, math.inf) == pytest.approx(8 / 30, rel=0.05)


def test_a_burst_that_is_over_is_forgotten() -> None:
    seen = Arrivals()
    for number in range(64):
        seen.add(1, number / 16)
    assert seen.rate(4.0) > 10
    rates = [seen.rate(4.0 + after) for after in (0, 5, 10, 20, 40, 90)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(64 / 30 * math.exp(-90 / 30), rel=0.1)


def busy(chooser: Chooser, rate: float, since: float, until: float) -> None:
    """Requests arrive evenly, and each is in flight for three seconds."""
    flights = deque[tuple[float, int]]()
    for step in range(int((until - since) * rate)):
        now = since + step / rate
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
    chooser = Chooser(SIX, Objective(1.0, 0.1), Load(), observed((0, 3, 5)), SLOTS)
    busy(chooser, rate, 0.0, now)
    return chooser


def test_reasons() -> None:
    rows = SIX.rows
    fresh = Chooser.of(SIX, Objective(1.0, 0.1), SLOTS)
    assert fresh.choose(rows, rows, 0.0) == (rows[5], Reason.AUTO_UNMEASURED)
    assert settled(1.0).choose(rows, rows, 100.0) == (rows[5], Reason.AUTO_LARGEST)
    middle, reason = settled(8.0).choose(rows, rows, 100.0)
    assert 0 < middle.size < 5
    assert reason in {Reason.AUTO_OBJECTIVE, Reason.AUTO_HELD}
    assert settled(8.0).choose(rows, rows[:1], 100.0) == (rows[0], Reason.AUTO_LARGEST)
    assert settled(14.0).choose(rows, rows[5:], 100.0) == (rows[5], Reason.AUTO_OVERLOAD)
    assert settled(200.0).choose(rows, rows, 100.0) == (rows[0], Reason.AUTO_OVERLOAD)


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
        Chooser(SIX, Objective(3.0, 1.0), load, observed((0, 3, 5)), 40, kv_tokens)
        for kv_tokens in (None, held)
    ]
    for chooser in choosers:
        chooser.load._prompt_tokens, chooser.load._output_tokens = 128, 256
    sizes = [chooser.preview(rows, rows, 60.0)[0].size for chooser in choosers]
    assert sizes[0] == 5
    assert 0 < sizes[1] < 5


def test_every_answer_of_a_request_counts() -> None:
    load = Load()
    load.arrived(0, True, 0.0, choices=8)
    assert (load.in_flight[0], load.waiting) == (8, 8)
    load.queued(3)
    load.ended(0, 1.0, (60, 40.0), choices=8)
    assert (load.in_flight[0], load.waiting) == (0, 3)
    assert load.demand(1.0).auto_rate == pytest.approx(8 / 30, rel=0.05)
    assert load.demand(1.0).output_tokens == 40


def test_a_request_that_the_engine_never_saw_does_not_wait() -> None:
    load = Load()
    for _ in range(5):
        load.arrived(0, True, 0.0)
        load.refused()
        load.ended(0, 0.0)
    assert load.waiting == 0


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
