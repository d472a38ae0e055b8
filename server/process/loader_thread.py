"""Loading beside serving: blocking work in a thread that nothing waits for at the end."""

import asyncio
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

_LOADER = "boomerang-load"


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work in a daemon thread, so that an exit never waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        # Processes started here inherit the mask: the terminal's Ctrl-C reaches this process only,
        # which then stops them in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        result: Any = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:  # handed over to the awaiting task, not swallowed
            error = raised
        except SystemExit as raised:  # would end this thread only, and the wait never
            error = RuntimeError(f"loading stopped with exit status {raised.code}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    resource_tracker.ensure_running()  # its start, with the first process, would lift the mask
    threading.Thread(target=run, name=_LOADER, daemon=True).start()
    return await future


def still_loading() -> bool:
    """Whether the work of `in_thread` goes on.

    Python must not end by itself then: it would stop the thread inside C++, which aborts.
    """
    return any(thread.name == _LOADER for thread in threading.enumerate())
