"""Clients that keep their connection and stop reading, on a real socket; no engine."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from server.guard.middleware import REQUEST_SLOTS
from server.memory.residency import Residency
from server.settings import read_settings
from server.web.leased_response import LeasedResponse
from tests.api.test_guarded import serving, shipped

__all__ = ["shipped"]  # a fixture

PATIENCE = 0.5
PIECE = b"x" * 1024
SIZE = 3
ANSWERS = 2


class Endless:
    """A route that streams for ever, with what a request of ours holds meanwhile."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended_by: BaseException | None = None
        self.ended = threading.Event()

    def add(self, app: FastAPI, residency: Residency) -> None:
        """For `serving`."""
        self.app, self.residency = app, residency
        # Accepted sockets inherit it; the kernel would take megabytes before the server waits.
        app.state.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)

        async def endless(request: Request) -> Response:
            lease = ExitStack()
            lease.enter_context(residency.lease(SIZE))
            request.scope[REQUEST_SLOTS].take(ANSWERS)
            return LeasedResponse(StreamingResponse(self._pieces()), lease)

        async def greedy(request: Request) -> str:
            request.scope[REQUEST_SLOTS].take(ANSWERS)
            return "there was room"

        app.add_api_route("/v1/endless", endless, response_model=None)
        app.add_api_route("/v1/greedy", greedy)

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield PIECE
                self.sent += len(PIECE)
                await asyncio.sleep(0)
        except BaseException as error:
            self.ended_by = error
            raise
        finally:
            self.ended.set()

    def connections(self) -> int:
        """How many connections uvicorn has."""
        return len(self.app.state.server.server_state.connections)


@contextmanager
def reader(port: int) -> Iterator[socket.socket]:
    """A client with little room for what it has not read, that asked for the endless answer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /v1/endless HTTP/1.1\r\nHost: x\r\nX-Request-Id: sleepy\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def wait_for(what: str, seconds: float, is_so: Any) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_an_answer_that_nobody_reads_is_broken_off(
    shipped: Family, caplog: pytest.LogCaptureFixture
) -> None:
    """The generator is closed, slots and lease come back, the kernel ends the connection."""
    route = Endless()
    limits = {"max_num_seqs": 1, "max_waiting": 1, "send_timeout_seconds": PATIENCE}
    with serving(shipped, route.add, **limits) as (url, port), reader(port):
        began = time.monotonic()
        full = httpx.get(f"{url}/v1/greedy")
        assert (full.status_code, route.residency.runs(SIZE)) == (429, True)
        assert route.ended.wait(10)
        assert time.monotonic() - began > PATIENCE
        assert isinstance(route.ended_by, GeneratorExit)
        wait_for("the slots are free", 2, lambda: httpx.get(f"{url}/v1/greedy").text[:1] == '"')
        assert not route.residency.runs(SIZE)
        assert 'refusals_total{reason="stalled"} 1.0' in httpx.get(f"{url}/metrics").text
        (line,) = (one for one in caplog.records if one.name == "server.guard.sending")
        assert line.levelno == logging.WARNING
        assert "did not read on for 0.5 seconds; request sleepy" in line.getMessage()
        assert not [one for one in caplog.records if one.exc_info]
        wait_for("the connection ends", 10, lambda: route.connections() == 0)


def test_a_client_that_reads_slowly_gets_its_answer(shipped: Family) -> None:
    """Many times longer than the bound, and never as fast as the answer is made."""
    route = Endless()
    with (
        serving(shipped, route.add, send_timeout_seconds=PATIENCE) as (url, port),
        reader(port) as connection,
    ):
        read, until = 0, time.monotonic() + 6 * PATIENCE
        while time.monotonic() < until:
            wanted = read + 100_000
            while read < wanted:
                piece = connection.recv(10_000)
                assert piece, "broken off"
                read += len(piece)
            time.sleep(PATIENCE / 5)
        assert not route.ended.is_set()
        assert route.sent - read < 300_000, "the server waits for it"
        connection.close()
        assert route.ended.wait(10), "a client that goes ends it too"
        assert 'refusals_total{reason="stalled"} 0.0' in httpx.get(f"{url}/metrics").text


def test_a_body_that_drips_is_refused(shipped: Family) -> None:
    """A byte at a time would hold the connection, and a turn of its key, for ever."""
    head = "POST /v1/sizes/resolve HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with (
        serving(shipped, body_timeout_seconds=PATIENCE) as (url, port),
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(head.encode())
        connection.settimeout(PATIENCE / 5)
        answer, until = b"", time.monotonic() + 10
        while not answer and time.monotonic() < until:
            connection.sendall(b" ")
            with suppress(TimeoutError):
                answer = connection.recv(10_000)
        connection.settimeout(10)
        while more := connection.recv(10_000):
            answer += more
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.5 seconds" in answer
        assert 'refusals_total{reason="too_slow"} 1.0' in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize("bound", ["send_timeout_seconds", "body_timeout_seconds"])
@pytest.mark.parametrize("seconds", [0, -1, "inf", "soon"])
def test_a_bound_that_makes_no_sense(bound: str, seconds: object) -> None:
    with pytest.raises(SettingsError, match=bound):
        read_settings(**{bound: seconds})
