"""The predicted latency, beside the simulated one."""

import math
from collections.abc import Mapping

import pytest

from server.load.prediction import predict
from server.load.tracker import Demand
from tests.unit.serving_simulation import SIX, SLOTS, Simulation, always, constant, observed

WARM = 60.0
"""Seconds until the arrival rate is known."""
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
