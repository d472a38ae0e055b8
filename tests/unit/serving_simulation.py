"""A simulated server: one engine that steps, first come first served, with seeded Poisson arrivals.

The engine's true costs are not those that the predictor starts from.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from boomerang_core.sizes import SizeRow, SizeTable
from server.load.chooser import Chooser
from server.load.costs import Step, StepCosts
from server.load.prediction import Latency

MB = 10**6
SLOTS = 32


def ladder(*millions: int) -> SizeTable:
    """Sizes of so many million parameters, two bytes each, all offered."""
    rows = (
        SizeRow(k, f"{count}m", 10 + k, count * MB, 2 * count * MB, 1000, True)
        for k, count in enumerate(millions)
    )
    return SizeTable("smol", tuple(rows))


SIX = ladder(60, 75, 90, 105, 120, 135)
SHARES = [row.params / (135 * MB) for row in SIX.rows]


@dataclass
class Request:
    size: int
    arrived: float
    prompt: int
    answer: int
    left: int = 0
    first: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.answer


@dataclass
class Truth:
    """What a step really takes: overhead, weights, rows and prompt tokens, with noise.

    Steps of several sizes take `mixed` times as long (docs/benchmarks/engine.md: up to 1.14).
    """

    shares: list[float]
    overhead: float = 0.004
    weights: float = 0.02
    row: float = 0.002
    prompt: float = 0.0004
    noise: float = 0.1
    mixed: float = 1.14

    def seconds(
        self, running: list[Request], admitted: list[Request], draw: random.Random
    ) -> float:
        both = [*running, *admitted]
        whole = self.overhead + self.weights * max(self.shares[r.size] for r in both)
        whole += sum(self.row * self.shares[r.size] for r in running)
        whole += sum(self.prompt * r.prompt * self.shares[r.size] for r in admitted)
        whole *= self.mixed if len({r.size for r in both}) > 1 else 1.0
        return whole * draw.lognormvariate(0.0, self.noise)


def observed(sizes: tuple[int, ...], steps: int = 400, seed: int = 0) -> StepCosts:
    """Costs learned from decode steps of some sizes, each with a prompt now and then."""
    costs, truth, draw = StepCosts(SHARES), Truth(SHARES, noise=0.05), random.Random(seed)
    for _ in range(steps):
        size, rows = draw.choice(sizes), draw.randrange(1, 32)
        prompt = draw.choice((0, 0, 0, 60))
        took = truth.overhead + SHARES[size] * (
            truth.weights + truth.row * rows + truth.prompt * prompt
        )
        costs.observe(Step({size: rows}, {size: prompt}, took * draw.lognormvariate(0, 0.05)))
    return costs


@dataclass
class Simulation:
    """Runs arrivals at `rate(now)` a second through a chooser; keeps what was chosen and met."""

    table: SizeTable
    rate: Callable[[float], float]
    seed: int = 0
    prompt: int = 60
    answer: int = 40
    objective: Latency = field(default_factory=lambda: Latency(1.0, 0.1))
    choices: list[tuple[float, int]] = field(default_factory=list)
    met: list[tuple[float, bool]] = field(default_factory=list)
    token_seconds: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.chooser = Chooser.of(self.table, self.objective, SLOTS)
        self.truth = Truth([row.params / self.table.teacher.params for row in self.table.rows])
        self._peak = max(self.rate(float(t)) for t in range(2000))

    def run(self, seconds: float, choose: Callable[["Simulation", float], SizeRow]) -> "Simulation":
        now, running = 0.0, list[Request]()
        waiting: list[Request] = []
        arrivals = self._arrivals(seconds)
        while arrivals or waiting or running:
            if not running and not waiting:
                now = max(now, arrivals[0])
            while arrivals and arrivals[0] <= now:
                waiting.append(self._admit(heapq.heappop(arrivals), choose))
            admitted, waiting = waiting[: SLOTS - len(running)], waiting[SLOTS - len(running) :]
            took = self.truth.seconds(running, admitted, self.draw)
            now += took
            self._observe(running, admitted, took, len(waiting))
            running = self._advance(running, admitted, now)
        return self

    def _arrivals(self, seconds: float) -> list[float]:
        """A Poisson process of changing rate, by thinning."""
        times, now = [], 0.0
        while (now := now + self.draw.expovariate(self._peak)) < seconds:
            if self.draw.random() * self._peak < self.rate(now):
                times.append(now)
        return times

    def _admit(self, arrived: float, choose: Callable[["Simulation", float], SizeRow]) -> Request:
        row = choose(self, arrived)
        self.choices.append((arrived, row.size))
        self.chooser.load.arrived(row.size, True, arrived)
        answer = max(1, round(self.draw.gauss(self.answer, self.answer / 4)))
        return Request(row.size, arrived, self.prompt, answer)

    def _observe(
        self, running: list[Request], admitted: list[Request], took: float, waiting: int
    ) -> None:
        rows: dict[int, int] = {}
        prompts: dict[int, int] = {}
        for request in running:
            rows[request.size] = rows.get(request.size, 0) + 1
        for request in admitted:
            prompts[request.size] = prompts.get(request.size, 0) + request.prompt
        self.chooser.costs.observe(Step(rows, prompts, took))
        self.chooser.load.queued(waiting)

    def _advance(
        self, running: list[Request], admitted: list[Request], now: float
    ) -> list[Request]:
        for request in admitted:
            request.first = now
        going = []
        for request in (*running, *admitted):
            request.left -= 1
            if request.left:
                going.append(request)
            else:
                self._finish(request, now)
        return going

    def _finish(self, request: Request, now: float) -> None:
        self.chooser.load.ended(request.size, now, (request.prompt, request.answer))
        per_token = (now - request.first) / max(1, request.answer - 1)
        self.token_seconds.append((request.arrived, per_token))
        in_time = (
            request.first - request.arrived <= self.objective.first_token_seconds
            and per_token <= self.objective.token_seconds
        )
        self.met.append((request.arrived, in_time))

    # ---- what came out ---------------------------------------------------------------------

    def changes(self, since: float = 0.0) -> list[tuple[float, tuple[int, int]]]:
        """When the size changed from one request to the next, and from which to which."""
        seen = [choice for choice in self.choices if choice[0] >= since]
        return [(at, (a, b)) for (_, a), (at, b) in pairwise(seen) if a != b]

    def moves(self, since: float = 0.0) -> list[tuple[int, int]]:
        """The changes alone."""
        return [move for _, move in self.changes(since)]

    def mean_token_seconds(self, since: float = 0.0) -> float:
        """The mean over requests of the seconds for each token after the first."""
        times = [seconds for at, seconds in self.token_seconds if at >= since]
        return sum(times) / len(times)

    def attained(self, since: float = 0.0) -> float:
        """The share of requests that met the objective."""
        met = [ok for at, ok in self.met if at >= since]
        return sum(met) / len(met)

    def mean_size(self, since: float = 0.0) -> float:
        """The mean place on the ladder."""
        sizes = [size for at, size in self.choices if at >= since]
        return sum(sizes) / len(sizes)


@dataclass
class ClosedLoop(Simulation):
    """`rate(now)` clients, each of which asks again as soon as its answer is there."""

    def run(self, seconds: float, choose: Callable[[Simulation, float], SizeRow]) -> "ClosedLoop":
        now, running, waiting = 0.0, list[Request](), list[Request]()
        while now < seconds:
            asking = int(self.rate(now)) - len(running) - len(waiting)
            waiting += [self._admit(now, choose) for _ in range(asking)]
            free = SLOTS - len(running)
            admitted, waiting = waiting[:free], waiting[free:]
            took = self.truth.seconds(running, admitted, self.draw)
            now += took
            self._observe(running, admitted, took, len(waiting))
            running = self._advance(running, admitted, now)
        return self


def auto(simulation: Simulation, now: float) -> SizeRow:
    """The chooser's choice among all sizes."""
    rows = simulation.table.offered
    return simulation.chooser.choose(rows, rows, now, simulation.prompt)[0]


def always(size: int) -> Callable[[Simulation, float], SizeRow]:
    """One size for everyone."""
    return lambda simulation, now: simulation.table.rows[size]


def constant(rate: float) -> Callable[[float], float]:
    """The same rate at every moment."""
    return lambda now: rate
