"""What the front end sees of the load: who came, who runs, who waits, how long answers are."""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

RATE_SECONDS = 30.0
"""Time constant of the arrival rates: slow enough that chance moves them little."""
_BURSTS = (6, 12, 24, 48)
"""The last so many requests are looked at for a burst: a strong one shows in few of them."""
_DEVIATIONS = 1.5
"""The standard deviations of a number of arrivals that may be chance."""
_SHORTEST = 2.0
"""Seconds; what came in less counts as having come in so long: more often it is only a clump."""
_TURNS = 8
"""How often a crowd must have changed wholly to tell whether clients wait for their answers."""
_FEWEST, _MOST = 12, 512
"""Arrivals that tell it at least, and that are remembered."""
_STEADY = 0.4
"""A crowd whose variance is less than so many times its mean is steadier than chance makes it: of
requests that come by chance, 1 to 8 % of the moments look so (simulated, crowds of 4 to 40)."""
_LENGTH_WEIGHT = 0.05
_PROMPT_TOKENS = 128.0
_OUTPUT_TOKENS = 64.0


@dataclass
class DecayingSum:
    """A sum that forgets: what was added fades with the time constant `seconds`."""

    seconds: float
    _value: float = 0.0
    _at: float = -math.inf

    def add(self, amount: float, now: float) -> None:
        """Add at the moment `now`."""
        self._value, self._at = self.at(now) + amount, now

    def at(self, now: float) -> float:
        """The sum, faded until `now`."""
        age = max(now - self._at, 0.0)
        return self._value * math.exp(-age / self.seconds) if self._value else 0.0


@dataclass
class Arrivals:
    """How many answers are asked for a second: steady, and quick to see that they became more.

    The slow rate forgets with `RATE_SECONDS`.  Next to it stand the last requests: `count` of them
    in `seconds` are at least a rate of `(count - deviations x root of count) / seconds`, since the
    number of random arrivals in a time varies by its root.  A `doubt` multiplies the deviations:
    with 0 nothing is taken for chance, with infinity every burst.
    """

    _slow: DecayingSum = field(default_factory=lambda: DecayingSum(RATE_SECONDS))
    _answers: int = 0
    _last: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=max(_BURSTS)))
    """The last requests: when, and how many answers were asked for before."""

    def add(self, choices: int, now: float) -> None:
        """A request for so many answers."""
        self._slow.add(choices, now)
        self._last.append((now, self._answers))
        self._answers += choices

    def rate(self, now: float, doubt: float = 1.0) -> float:
        """Answers a second; the smaller the `doubt`, the less of a burst is taken for chance."""
        rates = [self._slow.at(now) / RATE_SECONDS]
        for count in _BURSTS:
            if count > len(self._last):
                break
            since, before = self._last[-count]
            if 0 < now - since <= RATE_SECONDS:  # an older one is known to the slow rate
                sure = 1 - doubt * _DEVIATIONS / math.sqrt(count)
                rates.append((self._answers - before) * sure / max(now - since, _SHORTEST))
        return max(rates)


@dataclass(frozen=True)
class Demand:
    """The load as the chooser needs it.

    `auto_rate` is the requests a second whose size is ours to choose, `fixed_rates` those of
    requests that name a size; `in_flight` counts those that run or wait, by size, and `waiting`
    is how many the engine has not begun; lengths are means in tokens.  `clients` is how many there
    seem to be, each of which waits for its answer before it asks again; infinite where they do not
    wait.
    """

    auto_rate: float
    fixed_rates: Mapping[int, float]
    in_flight: Mapping[int, int]
    waiting: int
    prompt_tokens: float
    output_tokens: float
    clients: float = math.inf


@dataclass
class Load:
    """The requests of one server."""

    in_flight: Counter[int] = field(default_factory=Counter)
    waiting: int = 0
    _auto: Arrivals = field(default_factory=Arrivals)
    _fixed: dict[int, Arrivals] = field(default_factory=dict)
    _crowds: deque[int] = field(default_factory=lambda: deque(maxlen=_MOST))
    """How many ran or waited when each of the last requests came."""
    _prompt_tokens: float = _PROMPT_TOKENS
    _output_tokens: float = _OUTPUT_TOKENS
    _finished: int = 0

    def arrived(self, size: int, auto: bool, now: float, choices: int = 1) -> None:
        """A request for so many answers begins; `auto` where its size was ours to choose."""
        self._crowds.append(self.in_flight.total())
        self.in_flight[size] += choices
        self.waiting += choices  # until the engine counts
        arrivals = self._auto if auto else self._fixed.setdefault(size, Arrivals())
        arrivals.add(choices, now)

    def queued(self, count: int) -> None:
        """The engine counted its waiting requests."""
        self.waiting = count

    def refused(self, choices: int = 1) -> None:
        """A request that arrived never came to the engine."""
        self.waiting = max(self.waiting - choices, 0)

    def ended(
        self, size: int, now: float, lengths: tuple[int, float] | None = None, choices: int = 1
    ) -> None:
        """A request ends.

        `lengths` are the tokens of the prompt and of an answer, None where it was broken off.
        """
        self.in_flight[size] -= choices
        if lengths is None:
            return
        self._finished += 1
        weight = max(_LENGTH_WEIGHT, 1 / self._finished)  # the plain mean, for the first ones
        self._prompt_tokens += weight * (lengths[0] - self._prompt_tokens)
        self._output_tokens += weight * (lengths[1] - self._output_tokens)

    def demand(self, now: float, doubt: float = 1.0) -> Demand:
        """The load at this moment; the smaller the `doubt`, the less of a burst is chance."""
        return Demand(
            auto_rate=self._auto.rate(now, doubt),
            fixed_rates={size: seen.rate(now, doubt) for size, seen in self._fixed.items()},
            in_flight={k: n for k, n in self.in_flight.items() if n > 0},
            waiting=self.waiting,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            clients=self._clients(),
        )

    def _clients(self) -> float:
        """See `Demand`: the crowd of those who come by chance varies by its root, as they do."""
        if not self._crowds:
            return math.inf
        count = max(_FEWEST, _TURNS * self._crowds[-1])
        crowds = list(self._crowds)[-count:]
        if len(crowds) < count:
            return math.inf
        mean = sum(crowds) / count
        variance = sum((crowd - mean) ** 2 for crowd in crowds) / count
        return max(crowds) + 1 if variance < _STEADY * mean else math.inf
