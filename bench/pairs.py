"""Several ways of doing the same work, timed in turn in one run: only their ratios count."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """The median of ratios taken pair by pair, with the least, the greatest and how many."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, over: Sequence[float], under: Sequence[float]) -> Ratio:
        """`over` / `under`, pair by pair."""
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        assert ratios, "no pairs"
        low, middle, high = (round(of(ratios), 3) for of in (min, statistics.median, max))
        return cls(middle, low, high, len(ratios))


def time_in_turn(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; every round begins with another way.

    A first round is not counted.  `ways`: name → a function that does the work once and returns
    its seconds.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            took = ways[name]()
            if turn:
                seconds[name].append(took)
    return seconds
