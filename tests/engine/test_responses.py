"""The end of a stream of `/v1/responses`, whatever becomes of it; no engine."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any
from unittest.mock import Mock

import pytest

from server.engine.client import SizedEngineClient
from server.engine.responses import _ended
from server.web.access import ERROR_EVENT

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("dead", "code", "message", "logged"),
    [(True, 503, "the engine has died", 0), (False, 500, "internal error", 1)],
)
def test_a_stream_that_fails_says_so(
    caplog: pytest.LogCaptureFixture, dead: bool, code: int, message: str, logged: int
) -> None:
    async def events() -> AsyncGenerator[str, None]:
        yield "event: response.created\ndata: {}\n\n"
        raise AssertionError("a parser's secret")

    client = Mock(spec=SizedEngineClient, dead=dead, dead_error=ValueError("the engine has died"))

    async def read() -> list[str]:
        return [event async for event in _ended(events(), client)]

    with caplog.at_level(logging.ERROR):
        first, last = asyncio.run(read())
    assert first.startswith("event: response.created")
    assert last.encode().startswith(ERROR_EVENT), "or the log and the metrics took it for whole"
    told: dict[str, Any] = json.loads(last.removeprefix("data: "))["error"]
    assert (told["code"], told["message"]) == (code, message)
    assert len(caplog.records) == logged


def test_a_stream_that_is_left_is_closed() -> None:
    closed = []

    async def events() -> AsyncGenerator[str, None]:
        try:
            yield "one"
            yield "two"
        finally:
            closed.append(True)

    async def leave() -> None:
        stream = _ended(events(), Mock(spec=SizedEngineClient))
        assert await anext(stream) == "one"
        await stream.aclose()
        assert closed

    asyncio.run(leave())
