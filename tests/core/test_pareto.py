"""Which sizes are offered."""

import pytest

from boomerang_core.evaluate.ladder import pareto
from boomerang_core.sizes import Quality


def front(kls: list[float], params: list[int]) -> set[int]:
    return set(pareto([Quality(kl, 0.5, 10.0, 100) for kl in kls], params))


@pytest.mark.parametrize(
    ("kls", "params", "offered"),
    [
        ([3, 2, 1, 0], [1, 2, 3, 4], {0, 1, 2, 3}),
        ([3, 2, 2.5, 0], [1, 2, 3, 4], {0, 1, 3}),  # larger and worse
        ([3, 2, 2, 0], [1, 2, 3, 4], {0, 1, 3}),  # larger and no better
        ([3, 1, 0.5, 0], [1, 5, 6, 4], {0, 3}),  # both vocabulary matrices: above the teacher
        ([3, 2, 1, 0], [3, 1, 2, 4], {1, 2, 3}),  # the student is beaten by a smaller size
        ([3, 2, 1, 0.1], [1, 2, 3, 4], {0, 1, 2, 3}),  # a teacher that rounding keeps off zero
        ([1, 1, 0, 0], [1, 1, 2, 2], {0, 1, 2, 3}),  # equals do not beat each other
    ],
)
def test_a_size_is_offered_unless_another_beats_it(
    kls: list[float], params: list[int], offered: set[int]
) -> None:
    assert front(kls, params) == offered
