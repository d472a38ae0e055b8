"""The state of a server, from its start to its end, and its engine once loaded.

LOADING ──> READY ──> DRAINING ──> (exit 0)
   └──────> FAILED <──────┴─────────> (exit 1): not loaded, or the engine died or hung
"""

import multiprocessing
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from server.memory.residency import Holder
from server.process.teardown import kill_children

_STOP_SECONDS = 20.0


class Engine(Holder, Protocol):
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
