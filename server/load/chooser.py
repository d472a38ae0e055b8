"""The largest size that is predicted to be in time, without oscillation.

For each size the predictor asks: if every request whose size is ours to choose ran at it, at the
rate at which requests arrive, what would a token take, and the first one?  Between steps that cost
`weights + row x rows` and prompts that cost `prompt` a token, a steady state has

    token seconds = weights / (1 - rate x (answer tokens x row + prompt tokens x prompt))

(Little's law for the rows in flight), and none where the bracket is not positive.  A crowd that is
already there counts too.

A burst shows in the rate after some requests, the sooner the stronger it is (`tracker.Arrivals`).
The arrival rate hardly depends on what was chosen, so choosing does not feed back into the
prediction, as a measured latency would.  What noise is left meets hysteresis: a size is left for
a smaller one once it is predicted to take more than `STAY` of the objective; a larger one is taken
only after it was predicted to take less than `ENTER` for `RISE_SECONDS`, and for twice as long each
time that the last rise had to be taken back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boomerang_core.sizes import SizeRow, SizeTable
from server.load.costs import StepCosts
from server.load.tracker import Demand, Load
from server.sizing import Reason

STAY = 0.9
ENTER = 0.7
LIKELY = 0.5
"""The doubt of a burst that says how far to fall: less than whether it is one, since who falls too
little falls again a moment later, and requests are late meanwhile."""
RISE_SECONDS = 20.0
_MOST_PATIENCE = 8
"""How many times `RISE_SECONDS` a rise waits at most; forgotten after as long without a fall."""
_RARE = 0.02
"""Requests a second below which other sizes' requests do not count as present in every step."""


@dataclass(frozen=True)
class Objective:
    """Seconds that a request may take: until its first token, and for each one after it."""

    first_token_seconds: float
    token_seconds: float

    def __post_init__(self) -> None:
        assert self.first_token_seconds > 0
        assert self.token_seconds > 0

    def used_by(self, latency: "Objective") -> float:
        """The larger share of the objective that a latency takes; above 1 it misses."""
        return max(
            latency.first_token_seconds / self.first_token_seconds,
            latency.token_seconds / self.token_seconds,
        )


LATE = Objective(math.inf, math.inf)


def predict(
    costs: StepCosts, demand: Demand, size: int, slots: int, prompt_tokens: float
) -> Objective:
    """The latency at a size, were every choosable request to run at it.

    `slots` is how many requests run at the same time, `prompt_tokens` the length of the prompt
    whose first token is asked for.
    """
    cost = costs.at(size)
    rates = {other: rate for other, rate in demand.fixed_rates.items() if rate > _RARE}
    weights = max(cost.weights, *(costs.at(other).weights for other in rates), 0.0)
    rates[size] = rates.get(size, 0.0) + demand.auto_rate
    prompts = sum(rate * demand.prompt_tokens * costs.at(k).prompt for k, rate in rates.items())
    rows = sum(rate * demand.output_tokens * costs.at(k).row for k, rate in rates.items())
    free = 1 - prompts - rows
    if free <= 0:
        return LATE
    steady = weights / free
    if sum(rates.values()) * demand.output_tokens * steady > slots:
        return LATE
    crowded = (weights + cost.row * min(demand.crowd, slots)) / (1 - prompts)
    token = max(steady, crowded)
    beyond = max(demand.crowd - slots, 0.0)
    queue = beyond * demand.output_tokens * token / slots
    ahead = (demand.waiting * demand.prompt_tokens + prompt_tokens) * cost.prompt
    return Objective(queue + token + ahead, token)


@dataclass
class Chooser:
    """Chooses for each request; remembers the size that the load allows, the level."""

    table: SizeTable
    objective: Objective
    load: Load
    costs: StepCosts
    slots: int
    """Requests that the engine runs at the same time at most."""
    kv_tokens: Sequence[int] | None = None
    """Tokens that the KV cache holds, by size; None: any number."""

    def __post_init__(self) -> None:
        assert self.slots > 0
        assert self.kv_tokens is None or len(self.kv_tokens) == len(self.table.rows)
        self._level = self.table.teacher.size
        self._rising: tuple[float, int] | None = None  # since when, and to which size at most
        self._updated = self._fell = -math.inf
        self._patience = 1
        self._risen = -math.inf  # when, where that was the last move

    @classmethod
    def of(
        cls,
        table: SizeTable,
        objective: Objective,
        slots: int,
        kv_tokens: Sequence[int] | None = None,
    ) -> "Chooser":
        """A chooser that has seen nothing; sizes relate as their weights do."""
        teacher = table.teacher.weight_bytes
        costs = StepCosts([row.weight_bytes / teacher for row in table.rows])
        return cls(table, objective, Load(), costs, slots, kv_tokens)

    def choose(
        self,
        available: Sequence[SizeRow],
        allowed: Sequence[SizeRow],
        now: float,
        prompt_tokens: float | None = None,
    ) -> tuple[SizeRow, Reason]:
        """The size of a request, and why.

        `available` are the sizes that can run now, `allowed` those of them that the request
        permits, both smallest first and not empty.
        """
        if self.costs.is_measured:
            self._follow(available, self.load.demand(now), now)
        return self.preview(available, allowed, now, prompt_tokens)

    def preview(
        self,
        available: Sequence[SizeRow],
        allowed: Sequence[SizeRow],
        now: float,
        prompt_tokens: float | None = None,
    ) -> tuple[SizeRow, Reason]:
        """What `choose` would give, were the level left where it is."""
        assert allowed
        assert available
        if not self.costs.is_measured:
            return allowed[-1], Reason.AUTO_UNMEASURED
        demand = self.load.demand(now)
        used = {row.size: self._used(demand, row.size, prompt_tokens) for row in allowed}
        level = self._within(available, self._level)
        in_time = [row for row in allowed if row.size <= level and used[row.size] <= 1]
        if not in_time:
            late = used[allowed[0].size] > 1
            return allowed[0], Reason.AUTO_OVERLOAD if late else Reason.AUTO_HELD
        chosen = in_time[-1]
        if chosen is allowed[-1]:
            return chosen, Reason.AUTO_LARGEST
        held = any(row.size > chosen.size and used[row.size] <= STAY for row in allowed)
        return chosen, Reason.AUTO_HELD if held else Reason.AUTO_OBJECTIVE

    def _used(self, demand: Demand, size: int, prompt_tokens: float | None = None) -> float:
        prompt = demand.prompt_tokens if prompt_tokens is None else prompt_tokens
        latency = predict(self.costs, demand, size, self._slots_at(size, demand), prompt)
        return self.objective.used_by(latency)

    def _slots_at(self, size: int, demand: Demand) -> int:
        """How many requests run at the same time: smaller ones take less of the KV cache."""
        if self.kv_tokens is None:
            return self.slots
        fitting = self.kv_tokens[size] / (demand.prompt_tokens + demand.output_tokens)
        return max(1, min(self.slots, int(fitting)))

    def _follow(self, available: Sequence[SizeRow], demand: Demand, now: float) -> None:
        """Move the level: down at once, up once there was room for long enough."""
        idle, self._updated = now - self._updated, now
        level = self._within(available, self._level)
        used = {row.size: self._used(demand, row.size) for row in available}
        if used[level] > STAY:
            likely = self.load.demand(now, LIKELY)
            used = {row.size: self._used(likely, row.size) for row in available}
            self._fall(_largest_below(used, level), now)
            return
        roomy = max((size for size in used if size > level and used[size] <= ENTER), default=None)
        if roomy is None:
            self._rising = None
            return
        since, target = self._rising or (now, roomy)
        self._rising = (since, min(target, roomy))
        if now - since >= RISE_SECONDS * self._patience or idle >= RISE_SECONDS:
            self._level, self._rising, self._risen = self._rising[1], None, now

    def _fall(self, level: int, now: float) -> None:
        lately = now - RISE_SECONDS * _MOST_PATIENCE
        if self._risen >= lately:  # the rise is taken back
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        elif self._fell < lately:
            self._patience = 1
        self._level, self._rising, self._risen, self._fell = level, None, -math.inf, now

    def _within(self, available: Sequence[SizeRow], level: int) -> int:
        """The level, or where it is not available the next smaller size that is."""
        sizes = [row.size for row in available]
        return max((size for size in sizes if size <= level), default=sizes[0])


def _largest_below(used: dict[int, float], level: int) -> int:
    """Where to go from a level that is late: with room if that can be, else in time, else least."""
    for limit in (ENTER, STAY):
        fits = [size for size, share in used.items() if size < level and share <= limit]
        if fits:
            return max(fits)
    return min(used)
