"""An engine that lives and makes no step; clocks and engines are stand-ins."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterable

import psutil
import pytest
import uvicorn

from boomerang_core.errors import EngineError, SettingsError
from boomerang_core.memory_plan import Span
from server.process.draining_server import DrainingServer
from server.process.lifecycle import Lifecycle, State
from server.process.teardown import kill_children
from server.process.watchdog import Watchdog
from server.settings import read_settings

SECONDS = 10.0
LOOK = 0.5


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def when(progress: Iterable[int | None], between: float = LOOK) -> float | None:
    """How long after the first look it is too long; None where it never is."""
    clock = Clock()
    watchdog, began = Watchdog(SECONDS, clock), clock.now
    for number in progress:
        if watchdog.is_hung(number):
            return clock.now - began
        clock.now += between
    return None


def test_an_engine_that_owes_a_step_and_makes_none_hangs() -> None:
    assert when([7] * 100) == SECONDS + LOOK
    assert when([None] * 30 + [7] * 100) == 30 * LOOK + SECONDS + LOOK


def test_steps_and_rests_are_fine() -> None:
    assert when(range(1000)) is None
    assert when([None] * 1000) is None
    assert when(step for step in range(20) for _ in range(int(SECONDS / LOOK))) is None


def test_time_without_a_debt_does_not_count() -> None:
    """Weights are read for a minute, with requests that wait; the next step comes 8 s later."""
    assert when([7] * 4 + [None] * 120 + [7] * 16 + [8] * 4) is None


def test_clients_that_give_up_hide_no_hang() -> None:
    """Each for 3 s, with a rest after it in which nothing is owed."""
    found = when(([7] * 6 + [None] * 6) * 20)
    assert found is not None
    assert 2 * SECONDS < found < 3 * SECONDS


def test_a_server_that_was_stopped_itself_blames_nobody() -> None:
    assert when([7] * 5, between=1000.0) is None
    assert when([7] * 100, between=1000.0) == 11 * 1000.0


class Hung:
    """An engine that owes a step."""

    dead = False
    progress = 7

    async def check_health(self) -> bool:
        return True

    async def resident_bytes(self) -> int:
        return 0

    async def hold_sizes(self, span: Span) -> int:
        return 0

    def shutdown(self, timeout: float | None = None) -> None:
        pass


def test_a_hung_engine_is_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[bool] = []
    monkeypatch.setattr("server.process.lifecycle.kill_children", lambda: killed.append(True))
    states: list[bool] = []
    lifecycle = Lifecycle(on_ready=states.append)
    lifecycle.loaded(Hung())
    config = uvicorn.Config(lambda *_: None)

    async def watch() -> DrainingServer:
        server = DrainingServer(config, lifecycle, 1.0, Watchdog(0.1))
        await asyncio.wait_for(server._watch(), 10)
        return server

    assert not lifecycle.engine_is_dead
    assert asyncio.run(watch()).should_exit
    assert killed == [True]
    assert lifecycle.engine_is_dead  # so /live fails
    assert not lifecycle.is_ready
    assert not lifecycle.accepts
    assert (lifecycle.state, states) == (State.FAILED, [True, False])
    assert isinstance(lifecycle.error, EngineError)  # so the exit status is not 0
    assert "the engine hung" in str(lifecycle.error)


def test_stopped_processes_and_theirs_are_killed() -> None:
    child = multiprocessing.get_context("spawn").Process(
        target=subprocess.run, args=(["sleep", "60"],)
    )
    child.start()
    assert child.pid is not None
    process, deadline = psutil.Process(child.pid), time.monotonic() + 30
    while not (below := process.children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for each in (child.pid, *(one.pid for one in below)):
        os.kill(each, signal.SIGSTOP)
    kill_children()
    child.join(10)
    assert child.exitcode == -signal.SIGKILL
    assert psutil.wait_procs(below, timeout=10)[1] == []


@pytest.mark.parametrize("seconds", [0, -1, "inf", "soon"])
def test_a_bound_that_makes_no_sense(seconds: object) -> None:
    with pytest.raises(SettingsError, match="hang_seconds"):
        read_settings(hang_seconds=seconds)
