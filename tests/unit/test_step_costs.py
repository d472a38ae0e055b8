"""What an engine step takes, learned from simulated steps."""

import random

import pytest

from server.load.costs import ENOUGH_STEPS, Step, StepCosts
from tests.unit.serving_simulation import SHARES, Truth, observed


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
