"""The largest size that is predicted to be in time, without oscillation.

The chooser keeps a level: the largest size that the load allows.  `prediction.py` says what a
request would meet were everyone whose size is ours to choose at the level from now on.

The level falls once a request that begins now is predicted to take more than `STAY` of the
objective, to a size that leaves room once those that run now have ended, should none of a burst be
chance.  It rises only after a larger size was predicted to take less than `ENTER`, at the slow rate
of arrivals, for `RISE_SECONDS`, and for twice as long each time that the last rise had to be taken
back.  So a fall, which cannot wait, is judged by what is nearly certain, the requests in flight and
a few more, and a rise, which can, by what lasts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boomerang_core.sizes import SizeRow, SizeTable
from server.load.costs import StepCosts
from server.load.prediction import Latency, predict
from server.load.tracker import Demand, Load
from server.sizing import Reason

STAY = 0.9
ENTER = 0.7
RISE_SECONDS = 10.0
_ENDED, _LASTING = 1, 8
"""Answers' times until those that run now have ended, and until a load has shown where it leads."""
_MOST_PATIENCE = 8
"""How many times `RISE_SECONDS` a rise waits at most; forgotten after as long without a fall."""


@dataclass
class Chooser:
    """Chooses for each request; remembers the size that the load allows, the level."""

    table: SizeTable
    objective: Latency
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
        objective: Latency,
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
        demand, level = self.load.demand(now), self._within(available, self._level)

        def within(limit: float, row: SizeRow) -> bool:
            return self._used(demand, row.size, prompt_tokens) <= limit

        below = [row for row in allowed if row.size <= level]
        chosen = next((row for row in reversed(below) if within(1, row)), None)
        if chosen is None and not within(1, allowed[0]):
            return allowed[0], Reason.AUTO_OVERLOAD
        chosen = chosen or allowed[0]  # above the level, by the request's floor
        if chosen is allowed[-1]:
            return chosen, Reason.AUTO_LARGEST
        larger = next(row for row in allowed if row.size > chosen.size)
        return chosen, Reason.AUTO_HELD if within(STAY, larger) else Reason.AUTO_OBJECTIVE

    def _used(
        self, demand: Demand, size: int, prompt_tokens: float | None = None, later: int = 0
    ) -> float:
        prompt = demand.prompt_tokens if prompt_tokens is None else prompt_tokens
        slots = self._slots_at(size, demand)
        latency = predict(self.costs, demand, size, slots, prompt, later)
        return latency.share_of(self.objective)

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
        if self._used(demand, level) > STAY:
            # Who falls too little falls again a moment later, and requests are late meanwhile.
            whole = self.load.demand(now, doubt=0.0)
            self._fall(self._below(available, level, whole), now)
            return
        roomy = self._roomy(available, level, demand)
        if roomy == level:
            self._rising = None
            return
        since, target = self._rising or (now, roomy)
        self._rising = (since, min(target, roomy))
        if idle >= RISE_SECONDS:  # what there was room for before has no say
            self._level, self._rising, self._risen = roomy, None, now
        elif now - since >= RISE_SECONDS * self._patience:
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

    def _below(self, available: Sequence[SizeRow], level: int, demand: Demand) -> int:
        """Where to go from a level that is late: with room if that can be, else as in time."""
        sizes = [row.size for row in available if row.size < level] or [level]
        used = {size: self._used(demand, size, later=_ENDED) for size in sizes}
        for limit in (ENTER, STAY):
            fits = [size for size, share in used.items() if share <= limit]
            if fits:
                return max(fits)
        return min(sizes)

    def _roomy(self, available: Sequence[SizeRow], level: int, demand: Demand) -> int:
        """The largest size with room; the level where no larger one has."""
        for row in available:
            if row.size > level:
                if self._used(demand, row.size, later=_LASTING) > ENTER:
                    break
                level = row.size
        return level
