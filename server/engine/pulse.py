"""The steps of the engine, seen from the front end: when each began, and whether any are made."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Pulse:
    """The steps that an engine has made; weights are read between two of them."""

    steps: int = 0
    reading: bool = False
    """Whether the engine reads or frees weights, and so makes no step for a while."""
    _last: float | None = None  # the end of the step before, where another follows at once

    def stepped(self, now: float, goes_on: bool) -> float | None:
        """A step ended; `goes_on` where the engine has more to do.

        Returns when it began, or None where that is not known: after a rest, or with weights read
        before it, which are no part of what a step takes.
        """
        began = None if self.reading else self._last
        self.steps += 1
        self._last = now if goes_on else None
        return began

    @contextmanager
    def reads_weights(self) -> Iterator[None]:
        """The engine reads or frees weights; the step that ends next took longer for it."""
        self.reading = True
        try:
            yield
        finally:
            self.reading, self._last = False, None
