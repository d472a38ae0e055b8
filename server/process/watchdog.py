"""Notices an engine that lives and makes no step."""

import time
from collections.abc import Callable

_MOST_BETWEEN_LOOKS = 1.0


class Watchdog:
    """Tells how long an engine has owed a step since its last one, by looking again and again.

    Between two looks at most a second counts: were this process itself stopped (a paused container,
    a machine that slept), the steps made meanwhile would not have been seen.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._looked: float | None = None  # when, where a step was owed then
        self._progress: int | None = None
        self._still = 0.0

    def is_hung(self, progress: int | None) -> bool:
        """Look; `progress` is another number after each step, and None where none is owed.

        Clients that give up, so that nothing is owed for a while, are no sign of life: what was
        waited before goes on to count.
        """
        if progress is None:
            self._looked = None
            return False
        now = self._clock()
        if progress != self._progress:
            self._progress, self._still = progress, 0.0
        elif self._looked is not None:
            self._still += min(now - self._looked, _MOST_BETWEEN_LOOKS)
        self._looked = now
        return self._still > self._seconds
