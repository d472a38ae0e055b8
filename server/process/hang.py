"""An engine that lives and makes no step: noticed, and its processes ended."""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

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


def kill_children() -> None:
    """SIGKILL the processes that this one has started, and theirs: a stopped one obeys no other.

    The parents go first: the death of a child would have them report it.
    """
    for child in multiprocessing.active_children():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(child.pid)
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
