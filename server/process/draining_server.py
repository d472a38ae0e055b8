"""uvicorn's server, as ours loads, watches its engine, drains and stops."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn

from boomerang_core.errors import EngineError
from server.process.lifecycle import Lifecycle, State
from server.process.watchdog import Watchdog

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.2
_DEATH_NOTICE_SECONDS = 1.0  # how long a server whose engine died still tells so
_DEATH_DRAIN_SECONDS = 1  # and then waits for replies that are being sent


class DrainingServer(uvicorn.Server):
    """uvicorn, but SIGTERM first makes the server unready and keeps accepting for a while.

    A load balancer needs that time to notice.  Ctrl-C, a second signal, and a signal while
    loading stop at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        linger_seconds: float,
        watchdog: Watchdog,
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._linger_seconds = linger_seconds
        self._watchdog = watchdog
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve_until_stopped(
        self, load: Callable[[], Awaitable[None]], sockets: list[Any]
    ) -> None:
        """Serve on bound sockets while `load` runs in the background."""
        self._loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(work) for work in (self._load(load), self._watch())]
        try:
            await self.serve(sockets)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.get_running_loop().run_in_executor(None, self._lifecycle.stop)

    async def _load(self, load: Callable[[], Awaitable[None]]) -> None:
        try:
            await load()
        except Exception as error:  # whatever it is: reported in one line, and the process ends
            logger.debug("loading failed", exc_info=True)
            self._lifecycle.failed(error)
            self.should_exit = True

    async def _watch(self) -> None:
        """Stop when the engine has died or hangs, after a moment in which every client is told."""
        while not self._lifecycle.engine_is_dead:
            if self._watchdog.is_hung(self._lifecycle.progress):
                self._lifecycle.hung(
                    EngineError("the engine hung: it had requests and made no step")
                )
                break
            await asyncio.sleep(_WATCH_SECONDS)
        else:
            reason = "the engine has died; what it printed last says why"
            self._lifecycle.failed(EngineError(reason))
        self.config.timeout_graceful_shutdown = _DEATH_DRAIN_SECONDS
        await asyncio.sleep(_DEATH_NOTICE_SECONDS)
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn in the main thread, in the middle of whatever runs there.

        So it only leaves word: what a signal interrupts may hold a lock that a metric needs.  The
        parent's version is not used: it raises the signal again at the end, and the exit status
        would not be 0.
        """
        assert self._loop is not None, "uvicorn listens to signals while it serves"
        self._loop.call_soon_threadsafe(self._asked_to_end, sig)

    def _asked_to_end(self, sig: int) -> None:
        was = self._lifecycle.state
        self._lifecycle.drain()
        if sig == signal.SIGTERM and was is State.READY:
            asyncio.get_running_loop().call_later(self._linger_seconds, self._quit)
        else:
            self.force_exit = was is State.DRAINING
            self.should_exit = True

    def _quit(self) -> None:
        self.should_exit = True
