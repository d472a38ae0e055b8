"""Means with standard errors, and differences of sizes that answered the same items; pure.

A difference is paired: its error is that of the item by item differences.  Sizes of one family
mostly agree on what is hard, so it is smaller than the errors of the two means would suggest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MANY = 1000  # items, of which an accuracy's standard error is at most 0.016


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items; `se`, its standard error, is None where one item says nothing."""

    mean: float
    se: float | None
    n: int

    def __str__(self) -> str:
        """`0.28 ± 0.04`; a third digit where there are items enough for it to mean something."""
        digits = 2 if self.n < _MANY else 3
        error = "" if self.se is None else f" ± {self.se:.{digits}f}"
        return f"{self.mean:.{digits}f}{error}"


def estimate(values: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
    """The mean of values, and its standard error from their spread (n - 1 in the variance).

    With `weights` it is Σ w x / Σ w, as of documents by their words, and the error is that of a
    ratio (Cochran, Sampling Techniques, §6.3); equal weights give the plain mean and error.
    Raises ValueError where there is no value.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    shares = [1.0] * len(values) if weights is None else weights
    total, n = math.fsum(shares), len(values)
    mean = math.fsum(w * x for w, x in zip(shares, values, strict=True)) / total
    if n == 1:
        return Estimate(mean, None, n)
    spread = math.fsum((w * (x - mean)) ** 2 for w, x in zip(shares, values, strict=True))
    return Estimate(mean, math.sqrt(spread * n / (n - 1)) / total, n)


def difference(
    values: Sequence[float], base: Sequence[float], weights: Sequence[float] | None = None
) -> Estimate:
    """The mean of `values - base`, item by item, with its paired standard error."""
    return estimate([x - y for x, y in zip(values, base, strict=True)], weights)
