"""A run that is told to stop, by SIGTERM or Ctrl-C, does so between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TOLD = b"\nstopping after this step; once more: at once\n"


class Stop:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within, the first signal only asks to stop; another acts as it did before.

    One that is ignored stays so, as Ctrl-C is for a command behind `nohup … &`.  Python takes
    signals in its main thread alone: in another thread nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.asked = True
        put_back()
        os.write(2, _TOLD)  # a print in a handler may meet one that it interrupts

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before.update({number: signal.signal(number, ask) for number in heard})
    try:
        yield stop
    finally:
        put_back()
