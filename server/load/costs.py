"""What an engine step takes, by the sizes in it, learned from measured steps.

    seconds = f(sizes) x (weights x share of the largest size
                         + row x shares of the decoding rows, summed
                         + prompt x shares of the prompt tokens, summed)

A size's share is its weights' bytes over the teacher's: the prior of how sizes relate, from the
size table.  The three times are fitted to measured steps by a Kalman filter for a random walk
(L. Ljung, System Identification, section 11.2); `f` corrects what the shares get wrong
of a size, from steps of that size alone, and is 1 for the teacher.  A step of several sizes takes
`mixed` times what its largest size's `f` says: the batch is cut in two at every block that they do
not share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_PRIOR = (1.0, 1 / 16, 1 / 16)
"""Weights, a row, a prompt token: relative to each other, until steps are measured."""
_DOUBT = (0.5, 0.25, 0.25)
"""How far off the prior may be, as a standard deviation in the same unit."""
_NOISE = 0.1
"""Relative standard deviation of a measured step."""
_DRIFT = 0.003
"""How far a time may drift in a step, relative to how far off the prior may be."""
_FACTOR_RATE = 0.05
_FACTORS = (0.5, 2.0)
_MIXED = (1.0, 1.5)
_SURPRISE = 3.0
"""A step that took more than so many times what was predicted counts as so many times."""
ENOUGH_STEPS = 20


@dataclass(frozen=True)
class Step:
    """A measured step: size → decoding rows, size → prompt tokens, and what it took."""

    rows: Mapping[int, int]
    prompts: Mapping[int, int]
    seconds: float

    @property
    def sizes(self) -> frozenset[int]:
        """The sizes that took part."""
        parts = (*self.rows.items(), *self.prompts.items())
        return frozenset(size for size, count in parts if count)


@dataclass(frozen=True)
class SizeCosts:
    """Seconds at one size: a step's weights, a decoding row, a prompt token."""

    weights: float
    row: float
    prompt: float


@dataclass
class StepCosts:
    """The fit; `shares` are those of the sizes, smallest first, the teacher's last."""

    shares: Sequence[float]
    measured: int = 0
    mixed: float = 1.0
    """How many times as long a step takes for having several sizes."""
    _unit: float = 0.0  # seconds; the first step sets it
    _fit: list[float] = field(default_factory=lambda: list(_PRIOR))  # in units
    _factors: list[float] = field(default_factory=list)
    _covariance: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.shares
        assert all(share > 0 for share in self.shares)
        self._factors = [1.0] * len(self.shares)
        self._covariance = [[_DOUBT[i] ** 2 if i == j else 0.0 for j in range(3)] for i in range(3)]

    @property
    def is_measured(self) -> bool:
        """Whether enough steps were measured to predict anything."""
        return self.measured >= ENOUGH_STEPS

    def at(self, size: int) -> SizeCosts:
        """What a size costs, as far as is known."""
        scale = self._unit * self.shares[size] * self._factors[size]
        return SizeCosts(*(scale * part for part in self._fit))

    def expected(self, step: Step) -> float:
        """Seconds that a step takes, as far as is known."""
        return self._unit * self._factor(step) * _dot(self._features(step), self._fit)

    def observe(self, step: Step) -> None:
        """Learn from a step; one without rows, or without a duration, teaches nothing."""
        if not step.sizes or step.seconds <= 0:
            return
        features = self._features(step)
        if not self.measured:
            self._unit = step.seconds / _dot(features, self._fit)
        self.measured += 1
        factor = self._factor(step)
        expected = _dot(features, self._fit)
        took = min(step.seconds / self._unit / factor, _SURPRISE * expected)
        self._update(features, took, expected)
        self._correct(step, took / _dot(features, self._fit))

    def _factor(self, step: Step) -> float:
        own = self._factors[max(step.sizes)]
        return own * self.mixed if len(step.sizes) > 1 else own

    def _features(self, step: Step) -> list[float]:
        shares = self.shares
        return [
            max(shares[size] for size in step.sizes),
            sum(shares[size] * count for size, count in step.rows.items()),
            sum(shares[size] * count for size, count in step.prompts.items()),
        ]

    def _update(self, features: Sequence[float], took: float, expected: float) -> None:
        """One step of a Kalman filter on relative errors; the times may drift by `_DRIFT`."""
        scaled = [value / expected for value in features]
        spread = [_dot(row, scaled) for row in self._covariance]
        variance = _NOISE**2 + _dot(scaled, spread)
        error = took / expected - _dot(scaled, self._fit)
        self._fit = [
            value + part / variance * error for value, part in zip(self._fit, spread, strict=True)
        ]
        for i in range(3):
            for j in range(3):  # exactly symmetric: rounding must not add up
                self._covariance[i][j] -= spread[i] * spread[j] / variance
            # A doubt never exceeds the prior's, however long nothing was learned of it.
            drifted = max(self._covariance[i][i], 0.0) + (_DRIFT * _DOUBT[i]) ** 2
            self._covariance[i][i] = min(drifted, _DOUBT[i] ** 2)
        self._keep_positive()

    def _keep_positive(self) -> None:
        """Project a time below its least onto it, moving the others as far as they hang together.

        Cut off alone, a row that noise drives below nothing would leave the weights with what they
        had gained from its loss, step after step, until no size seems in time.
        """
        for i, prior in enumerate(_PRIOR):
            short = 1e-3 * prior - self._fit[i]
            if short > 0:
                pull = short / self._covariance[i][i]
                moved = zip(self._fit, self._covariance[i], strict=True)
                self._fit = [value + pull * part for value, part in moved]
        self._fit = [
            max(value, 1e-3 * prior) for value, prior in zip(self._fit, _PRIOR, strict=True)
        ]

    def _correct(self, step: Step, ratio: float) -> None:
        """Move the factor that a step tells of; `ratio` is what it took to what was predicted."""
        size = max(step.sizes)
        if len(step.sizes) > 1:
            self.mixed = _moved(self.mixed, ratio, _MIXED)
        elif size < len(self.shares) - 1:
            self._factors[size] = _moved(self._factors[size], ratio, _FACTORS)


def _moved(factor: float, ratio: float, limits: tuple[float, float]) -> float:
    return min(max(factor * (1 + _FACTOR_RATE * (ratio - 1)), limits[0]), limits[1])


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
