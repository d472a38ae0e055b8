"""Load in the background, become ready, drain, stop.

LOADING ──> READY ──> DRAINING ──> (exit 0)
   └──────> FAILED <──────┴─────────> (exit 1): not loaded, or the engine died or hung
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from enum import StrEnum
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import uvicorn

from boomerang_core.checkpoint import cache_root
from boomerang_core.errors import EngineError
from boomerang_core.memory_plan import Span
from server.hang import Stillness, kill_children
from server.settings import Settings

logger = logging.getLogger(__name__)

_LOADER = "boomerang-load"
_STOP_SECONDS = 20.0
_WATCH_SECONDS = 0.2
_DEATH_NOTICE_SECONDS = 1.0  # how long a server whose engine died still tells so
_DEATH_DRAIN_SECONDS = 1  # and then waits for replies that are being sent


class Engine(Protocol):
    """What the server needs of an engine."""

    @property
    def dead(self) -> bool:
        """Whether the engine has died; it does not come back."""
        ...

    @property
    def progress(self) -> int | None:
        """Another number after each step; None while it owes none."""
        ...

    async def check_health(self) -> bool:
        """Whether the engine answers."""
        ...

    async def resident_bytes(self) -> int:
        """Bytes of weights that it holds."""
        ...

    async def hold_sizes(self, span: Span) -> int:
        """Hold the weights of those sizes and no others; bytes of weights held then."""
        ...

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop its processes."""
        ...


class State(StrEnum):
    """Where a server is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """The state of one server, and its engine once loaded."""

    def __init__(self, on_ready: Callable[[bool], None] = lambda ready: None) -> None:
        self.state = State.LOADING
        self.engine: Engine | None = None
        self.error: BaseException | None = None
        self._hung = False
        self._on_ready = on_ready

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.state is State.READY and not self.engine_is_dead

    @property
    def accepts(self) -> bool:
        """Whether a request that arrives is served: while draining too, until the socket shuts."""
        return self.engine is not None and self.state in (State.READY, State.DRAINING)

    @property
    def engine_is_dead(self) -> bool:
        """Whether there was an engine that died, or hung."""
        return self.engine is not None and (self._hung or self.engine.dead)

    @property
    def progress(self) -> int | None:
        """That of the engine; None without one."""
        return None if self.engine is None else self.engine.progress

    async def engine_is_healthy(self) -> bool:
        """Whether the engine is loaded and answers."""
        return self.engine is not None and await self.engine.check_health()

    def loaded(self, engine: Engine) -> None:
        """The engine is there and its routes are mounted."""
        self.engine = engine
        if self.state is State.LOADING:
            self.state = State.READY
            self._on_ready(True)

    def failed(self, error: BaseException) -> None:
        """Loading failed, or the engine died; the process will end."""
        self.state, self.error = State.FAILED, error
        self._on_ready(False)

    def hung(self, error: BaseException) -> None:
        """The engine makes no step: it is ended, which tells everyone who waits for it."""
        self._hung = True
        self.failed(error)
        kill_children()

    def drain(self) -> None:
        """Become unready; what runs goes on."""
        if self.state is not State.FAILED:
            self.state = State.DRAINING
        self._on_ready(False)

    def stop(self) -> None:
        """Stop the engine; where it is still being loaded, the processes it has started."""
        if self.engine is not None:
            self.engine.shutdown(_STOP_SECONDS)
            self.engine = None
        for child in multiprocessing.active_children():
            child.terminate()


def prepare_environment(settings: Settings, logging_config: Path | None) -> None:
    """Set what vLLM reads from the environment, before vLLM is imported.

    `logging_config` is the file that its processes set up their logging from, where not vLLM's own.
    No usage statistics leave the machine.  Engine processes are spawned: forking a process that
    already runs threads can deadlock the child.  Plans are carried by model runner V1, where vLLM
    would take V2 on a GPU (docs/decisions/0006-model-runner-v1.md).  On a CPU, tensor-parallel
    ranks are not bound to NUMA nodes: vLLM wants one for each and refuses to start without.
    """
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    # vLLM's own bound counts as a type error; `Limits` refuses too many with a clear sentence.
    os.environ["VLLM_MAX_STOP_STRINGS"] = str(2**31 - 1)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", settings.log_level.upper())
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    # vLLM prefers FlashInfer's sampler, which nvcc and g++ compile at the start: few images have
    # both, and ours has neither.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if settings.tensor_parallel_size > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if logging_config is not None:
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(logging_config)
    if settings.cache is not None:
        os.environ["BOOMERANG_CACHE"] = str(settings.cache)
    if settings.compile:  # by default torch's is in /tmp, which pods lose
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))


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
        stillness: Stillness,
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._linger_seconds = linger_seconds
        self._stillness = stillness
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
            if self._stillness.is_too_long(self._lifecycle.progress):
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
