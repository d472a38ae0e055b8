"""The line of a request that fails, and its reply: both carry the id."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message

from server.logs import ACCESS, logging_config
from server.process.lifecycle import Lifecycle
from server.settings import read_settings
from server.web.access import AccessLog
from server.web.errors import install_handlers
from server.web.gate import Gate


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    install_handlers(app)
    app.add_middleware(Gate, lifecycle=Lifecycle())
    app.add_middleware(CORSMiddleware, allow_origins=["https://page.example"])
    app.add_middleware(AccessLog)

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("a secret")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(pieces())

    return TestClient(app, raise_server_exceptions=False)


async def pieces() -> AsyncIterator[str]:
    for _ in range(3):
        yield "piece"
        await asyncio.sleep(0)


def line_of(caplog: pytest.LogCaptureFixture) -> Any:
    """The one line of a request: text in its message, the fields of JSON as attributes."""
    (line,) = (record for record in caplog.records if record.name == ACCESS)
    return line


@pytest.mark.parametrize("given", ["abc", None])
def test_a_bug_is_told_with_its_request_id(
    client: TestClient, caplog: pytest.LogCaptureFixture, given: str | None
) -> None:
    with caplog.at_level(logging.INFO, logger=ACCESS):
        reply = client.get("/bug", headers={"x-request-id": given} if given else {})
    found = reply.headers["x-request-id"]
    assert found == given if given else len(found) == 32
    assert reply.json()["error"]["message"] == "internal error"
    line = line_of(caplog)
    assert (line.request_id, line.status) == (found, 500)


def test_a_whole_stream_is_not_marked(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=ACCESS):
        assert client.get("/stream").text == "piece" * 3
    assert "ended" not in line_of(caplog).getMessage()


@pytest.mark.parametrize("how", ["leaves", "stalls"])
def test_an_answer_that_is_broken_off_is_marked(
    client: TestClient, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Its status was told before: 200."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "path": "/stream",
        "query_string": b"",
        "headers": [],
    }

    async def scene() -> None:
        sent = asyncio.Event()
        asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Message:
            if (first := next(asked, None)) is not None:
                return first
            await (sent.wait() if how == "leaves" else asyncio.Event().wait())
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                sent.set()
                await asyncio.Event().wait()

        call = client.app(scope, receive, send)  # type: ignore[arg-type]
        await asyncio.wait_for(call, 0.2 if how == "stalls" else 10)

    with caplog.at_level(logging.INFO, logger=ACCESS):
        if how == "stalls":
            with pytest.raises(TimeoutError):
                asyncio.run(scene())
        else:
            asyncio.run(scene())
    line = line_of(caplog)
    assert (line.status, line.ended) == (200, "broken")
    assert " status=200 ended=broken " in line.getMessage()


def test_an_id_cannot_forge_fields(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """A preflight is answered before the id is looked at."""
    asked = {"origin": "https://page.example", "access-control-request-method": "GET"}
    with caplog.at_level(logging.INFO, logger=ACCESS):
        forged = {**asked, "x-request-id": "abc status=500 size=88m"}
        assert client.options("/stream", headers=forged).status_code == 200
        assert "abc" not in line_of(caplog).getMessage()
        assert not hasattr(line_of(caplog), "request_id")
        caplog.clear()
        client.options("/stream", headers={**asked, "x-request-id": "abc"})
        assert line_of(caplog).request_id == "abc"


@pytest.mark.parametrize("form", ["text", "json"])
def test_requests_are_logged_at_any_level(form: str) -> None:
    levels = logging_config(read_settings(log_format=form, log_level="error"))["loggers"]
    assert levels["boomerang"]["level"] == "INFO"
    assert levels["vllm"]["level"] == "ERROR"
