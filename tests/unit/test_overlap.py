"""What steps take is learned where the next is launched while one runs."""

import random
from collections.abc import Callable

import pytest

from server.load.costs import Step, StepCosts
from server.load.overlap import OverlappingSteps
from tests.unit.serving_simulation import SHARES, Truth

ROWS, PROMPT = 8, 400


def serve(tell: Callable[[Step], None]) -> float:
    """One step in four reads a prompt, and is launched in the time of the one before it.

    Returns what a step that decodes takes in truth.
    """
    truth, draw = Truth(SHARES), random.Random(0)
    decode = truth.overhead + truth.weights + truth.row * ROWS
    prompt = decode + truth.prompt * PROMPT
    for _ in range(200):
        noise = draw.lognormvariate(0, 0.03)
        for seconds in (decode, decode, prompt):  # the last: a decoding step, and a launch
            tell(Step({5: ROWS}, {}, seconds * noise))
        tell(Step({5: ROWS}, {5: PROMPT}, decode * noise))  # what is left of it
    return decode


def learned(costs: StepCosts) -> float:
    return costs.at(5).weights + ROWS * costs.at(5).row


def test_a_launch_is_no_part_of_the_step_before() -> None:
    costs, plain = StepCosts(SHARES), StepCosts(SHARES)
    true = serve(OverlappingSteps(costs).observe)
    serve(plain.observe)
    assert learned(costs) == pytest.approx(true, rel=0.05)
    assert learned(plain) > 1.1 * true, "or there would be nothing to tell apart"
    assert costs.at(5).prompt == pytest.approx(Truth(SHARES).prompt, rel=0.15)


def test_after_a_rest_a_step_counts_as_it_was() -> None:
    costs = StepCosts(SHARES)
    steps = OverlappingSteps(costs)
    steps.observe(Step({5: 1}, {}, 1.0))
    assert costs.measured == 0  # until it is known what was launched in it
    steps.observe(None)
    assert costs.measured == 1
    steps.observe(Step({}, {}, 1.0))
    steps.observe(Step({5: 1}, {5: 9}, 1.0))
    assert costs.measured == 2
