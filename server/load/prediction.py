"""What a request would meet at a size: the engine's next moments, as a fluid.

    token seconds = (weights of the largest size present + rows x row) / (1 - share of prompts)

holds for the requests that are there.  While tokens are made, the oldest of them end and new ones
come.  Followed for as long as an answer takes, this says what a request would meet that began now;
followed longer, what one would meet that begins later, and in the end the steady state.

What is there already counts at the sizes at which it runs: after a fall the larger size stays in
the steps for an answer's time, and steps of two sizes cost more.  And near saturation the steady
state is far away: a rate of arrivals that is known badly, as after a few seconds of a burst it is,
moves the steady state without bound, but the time of one answer little.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from server.load.costs import SizeCosts, StepCosts
from server.load.tracker import Demand

_PARTS = 5
"""An answer is followed in so many parts."""
_RARE = 0.02
"""Requests a second below which other sizes' requests do not count as arriving."""
_PRESENT = 0.5
"""Requests of a size, on average, above which it counts as present in every step."""


@dataclass(frozen=True)
class Latency:
    """Seconds that a request takes: until its first token, and for each one after it.

    The objective of `auto` is one too: what a request may take.
    """

    first_token_seconds: float
    token_seconds: float

    def __post_init__(self) -> None:
        assert self.first_token_seconds > 0
        assert self.token_seconds > 0

    def share_of(self, objective: "Latency") -> float:
        """How much of an objective it takes, of the two the larger share; above 1 it misses."""
        return max(
            self.first_token_seconds / objective.first_token_seconds,
            self.token_seconds / objective.token_seconds,
        )


LATE = Latency(math.inf, math.inf)


def predict(
    costs: StepCosts,
    demand: Demand,
    size: int,
    slots: int,
    prompt_tokens: float,
    later: int = 0,
) -> Latency:
    """The latency at a size, were every choosable request to run at it from now on.

    `slots` is how many requests run at the same time, `prompt_tokens` the length of the prompt
    whose first token is asked for, `later` how many answers' times later the request begins.
    """
    answer = _followed(costs, demand, size, slots, (later + 1) * _PARTS)[-_PARTS:]
    if not answer:
        return LATE
    token = sum(seconds for _, seconds in answer) / _PARTS
    crowd, first = answer[0]
    queue = max(crowd - slots, 0.0) * demand.output_tokens * token / slots
    ahead = (demand.waiting * demand.prompt_tokens + prompt_tokens) * costs.at(size).prompt
    return Latency(queue + first + ahead, token)


def _followed(
    costs: StepCosts, demand: Demand, size: int, slots: int, parts: int
) -> list[tuple[float, float]]:
    """Requests in flight and token seconds, part after part of an answer; none where prompts alone
    take all the time."""
    cost, present = costs.at(size), _Group.of(costs, demand.in_flight, size)
    coming = _Group.of(costs, {**demand.fixed_rates, size: _rate(demand, size)}, size)
    free = 1 - demand.prompt_tokens * coming.prompt
    if free <= 0 and math.isinf(demand.clients):
        return []
    flights = deque([present.times(1 / _PARTS)] * _PARTS)  # the oldest first
    seen = list[tuple[float, float]]()
    for _ in range(parts):
        rows, others, row_seconds = (sum(counts) for counts in zip(*flights, strict=True))
        rows, row_seconds = rows + 1, row_seconds + cost.row  # the request itself
        runs = min(1.0, slots / rows)
        weights = cost.weights
        if others >= _PRESENT:
            weights = max(weights, present.weights, coming.weights) * costs.mixed
        token = _with_prompts(weights + runs * row_seconds, free, cost, demand, slots)
        seen.append((rows, token))
        flights.popleft()
        came = coming.times(token * demand.output_tokens / _PARTS / runs)
        flights.append(came.at_most(demand.clients - sum(flight.rows for flight in flights)))
    return seen


def _with_prompts(token: float, free: float, cost: SizeCosts, demand: Demand, slots: int) -> float:
    """A token's seconds with the prompts that are read between, which leave `free` of the time.

    Clients that wait for their answers ask less often where those are slower: each of those that
    run reads one prompt in an answer's time.
    """
    crowded = token / free if free > 0 else math.inf
    if math.isinf(demand.clients):
        return crowded
    prompts = min(demand.clients, slots) * demand.prompt_tokens / demand.output_tokens
    return min(crowded, token + prompts * cost.prompt)


def _rate(demand: Demand, size: int) -> float:
    return demand.auto_rate + demand.fixed_rates.get(size, 0.0)


@dataclass(frozen=True)
class _Group:
    """Requests, or arrivals a second: how many, and what they add to a step."""

    rows: float
    others: float
    """Those of them that do not run at the size that is asked about."""
    row_seconds: float
    weights: float
    prompt: float

    @classmethod
    def of(cls, costs: StepCosts, counts: Mapping[int, float], size: int) -> "_Group":
        at = {k: costs.at(k) for k, count in counts.items() if count > _RARE}
        return cls(
            rows=sum(counts[k] for k in at),
            others=sum(counts[k] for k in at if k != size),
            row_seconds=sum(counts[k] * cost.row for k, cost in at.items()),
            weights=max((cost.weights for cost in at.values()), default=0.0),
            prompt=sum(counts[k] * cost.prompt for k, cost in at.items()),
        )

    def times(self, share: float) -> "_Flight":
        """So many times as many."""
        return _Flight(share * self.rows, share * self.others, share * self.row_seconds)


class _Flight(NamedTuple):
    """Requests that began at about the same time."""

    rows: float
    others: float
    row_seconds: float

    def at_most(self, rows: float) -> "_Flight":
        """So many of them, where there are more."""
        room = max(rows, 0.0)
        if self.rows <= room:
            return self
        share = room / self.rows
        return _Flight(*(share * part for part in self))
