"""What the front end sees of the load: arrivals, bursts, clients that wait for their answers."""

import math
import random

import pytest

from server.load.costs import Step, StepCosts
from server.load.prediction import predict
from server.load.tracker import Arrivals, Demand, Load


def test_only_those_that_wait_for_their_answers_are_clients() -> None:
    """Eight that ask again at once; as many on average that come by chance; and too few to tell."""
    waiting, chance, draw = Load(), Load(), random.Random(0)
    for number in range(200):
        waiting.arrived(5, True, float(number))
        if number >= 7:
            waiting.ended(5, number + 0.9, (60, 40))
    assert waiting.demand(200.0).clients == 8
    ends = list[float]()
    now = 0.0
    for _ in range(400):
        now += draw.expovariate(8.0)
        for end in [end for end in ends if end <= now]:
            ends.remove(end)
            chance.ended(5, end, (60, 40))
        chance.arrived(5, True, now)
        ends.append(now + 1.0)
    assert chance.demand(now).clients == math.inf
    few = Load()
    for number in range(5):
        few.arrived(5, True, float(number))
        few.ended(5, number + 0.9, (60, 40))
    assert few.demand(5.0).clients == math.inf


def test_a_crowd_beyond_the_clients_leaves_no_room_and_no_error() -> None:
    """One request for many answers: more run than there are clients, and nobody new comes."""
    demand = Demand(0.0, {}, {1: 40}, 0, 60.0, 40.0, clients=9)
    costs = StepCosts([0.5, 1.0])
    costs.observe(Step({1: 1}, {}, 0.02))
    alone = Demand(0.0, {}, {1: 40}, 0, 60.0, 40.0)
    assert predict(costs, demand, 1, 64, 60.0) == predict(costs, alone, 1, 64, 60.0)


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
