"""What clients of a server that stops get; a small app stands in for ours."""

import asyncio
import logging
import signal
from typing import Any

import httpx
import pytest
import uvicorn

from server.process.draining_server import DrainingServer
from server.process.lifecycle import Lifecycle, State
from server.process.watchdog import Watchdog
from server.web.access import AccessLog
from server.web.drain import Drain
from server.web.paths import COMPLETIONS

EVENTS = COMPLETIONS[0]
ENDLESS = {EVENTS: b"text/event-stream", "/bytes": b"application/octet-stream"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/` answers at once, `/never` never; the endless ones go on for ever."""
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/never":
        await asyncio.sleep(60)
    kind = ENDLESS.get(scope["path"])
    headers = [] if kind is None else [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while kind is not None:
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"done"})


class Stopping:
    """A server with a second to drain, and clients who are there when it is told to stop."""

    def __init__(self, linger: float = 0.0) -> None:
        self.lifecycle = Lifecycle()
        self.counted: list[int] = []
        config = uvicorn.Config(
            AccessLog(Drain(app, self.lifecycle), self.counted.append),
            port=0,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self.server = DrainingServer(config, self.lifecycle, linger, Watchdog(300))

    async def serve(self, client: Any) -> None:
        """Serve until `client(url)` is done, and the server with it."""

        async def load() -> None:
            self.lifecycle.state = State.READY

        config = self.server.config
        config.load()
        listening = config.bind_socket()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.server.serve_until_stopped(load, [listening]))
            tasks.create_task(client(url))

    def stop(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)


def test_a_stream_that_outlives_the_drain_ends_with_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopping = Stopping()

    async def client(url: str) -> None:
        async with httpx.AsyncClient() as http, http.stream("POST", f"{url}{EVENTS}") as reply:
            lines = reply.aiter_lines()
            assert await anext(lines) == "data: 1"
            stopping.stop()
            *_, last = [line async for line in lines if line]  # to a proper end
        assert last.startswith('data: {"error": {"message": "the server stops')

    with caplog.at_level(logging.INFO):
        asyncio.run(stopping.serve(client))
    assert not [record for record in caplog.records if record.exc_info]
    assert stopping.counted == [500]  # it is no success
    assert f" path={EVENTS} status=200 ended=broken " in caplog.text


def test_an_answer_that_has_not_begun_by_then_is_a_503(caplog: pytest.LogCaptureFixture) -> None:
    stopping = Stopping()

    async def client(url: str) -> None:
        async with httpx.AsyncClient() as http:
            asking = asyncio.create_task(http.get(f"{url}/never"))
            await asyncio.sleep(0.2)
            stopping.stop()
            reply = await asking
        assert (reply.status_code, reply.headers["connection"]) == (503, "close")
        assert reply.json()["error"]["code"] == 503
        assert int(reply.headers["retry-after"]) > 0

    asyncio.run(stopping.serve(client))
    assert not [record for record in caplog.records if record.exc_info]


def test_what_is_no_event_stream_is_broken_off() -> None:
    """A whole answer must not be mistaken for one."""
    stopping = Stopping()

    async def client(url: str) -> None:
        async with httpx.AsyncClient() as http, http.stream("GET", f"{url}/bytes") as reply:
            pieces = reply.aiter_bytes()
            await anext(pieces)
            stopping.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [piece async for piece in pieces]

    asyncio.run(stopping.serve(client))


def test_pooled_connections_are_closed_while_it_lingers() -> None:
    stopping = Stopping(linger=0.5)

    async def client(url: str) -> None:
        async with httpx.AsyncClient() as http:
            before = await http.get(url)
            assert "connection" not in before.headers
            stopping.stop()
            await asyncio.sleep(0.1)
            assert stopping.lifecycle.state is State.DRAINING
            late = await http.get(url)
            assert (late.text, late.headers["connection"]) == ("done", "close")

    asyncio.run(stopping.serve(client))
