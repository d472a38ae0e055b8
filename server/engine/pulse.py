"""The steps of the engine, seen from the front end: when each began, and whether any are made."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LONGEST_READING = 600.0
"""Seconds that the engine may read or free the weights of one size; layers are read in seconds."""


@dataclass
class Pulse:
    """The steps that an engine has made; weights are read between two of them."""

    steps: int = 0
    clock: Callable[[], float] = time.monotonic
    _reads_since: float | None = None
    _last: float | None = None  # the end of the step before, where another follows at once

    @property
    def reading(self) -> bool:
        """Whether the engine reads or frees weights, and so owes no step for a while.

        Not for ever: who waits for an engine that hangs in it would never be told.
        """
        since = self._reads_since
        return since is not None and self.clock() - since < LONGEST_READING

    def stepped(self, now: float, goes_on: bool) -> float | None:
        """A step ended; `goes_on` where the engine has more to do.

        Returns when it began, or None where that is not known: after a rest, or with weights read
        before it, which are no part of what a step takes.
        """
        began = None if self._reads_since is not None else self._last
        self.steps += 1
        self._last = now if goes_on else None
        return began

    @contextmanager
    def reads_weights(self) -> Iterator[None]:
        """The engine reads or frees weights; the step that ends next took longer for it."""
        self._reads_since = self.clock()
        try:
            yield
        finally:
            self._reads_since, self._last = None, None
