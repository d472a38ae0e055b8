"""What clients see of a server that stops: closed connections, and an end where time is up.

Plain ASGI, as `Gate` in `server/web/gate.py`, and for the same reason.
"""

import asyncio
import json
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.process.lifecycle import Lifecycle, State
from server.web.errors import TRY_AGAIN, error_body, error_response

_OVER = "the server stops, and its time to finish what runs is over"


class Drain:
    """Outside of whatever may be cancelled.

    While the server drains, every reply closes its connection, so that a client with a pool asks
    the next server from then on.  uvicorn cancels what outlives `drain_seconds`: such a reply ends
    here, with an error in its own form, and not in the middle of a line.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent: Headers | None = None

        async def closing(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                if self._lifecycle.state is State.DRAINING:
                    MutableHeaders(scope=message)["connection"] = "close"
                sent = Headers(raw=message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, closing)
        except asyncio.CancelledError:
            if self._lifecycle.state is not State.DRAINING:
                raise
            await _cut_off(sent, scope, receive, send)


async def _cut_off(sent: Headers | None, scope: Scope, receive: Receive, send: Send) -> None:
    """End a reply that was cancelled; `sent`: its headers, None where it has not begun."""
    if sent is None:
        reply = error_response(HTTPStatus.SERVICE_UNAVAILABLE, _OVER, headers=TRY_AGAIN)
        await reply(scope, receive, send)
    elif sent.get("content-type", "").startswith("text/event-stream"):
        event = f"data: {json.dumps(error_body(HTTPStatus.SERVICE_UNAVAILABLE, _OVER))}\n\n"
        await send({"type": "http.response.body", "body": event.encode(), "more_body": False})
    else:
        raise asyncio.CancelledError  # a body of a stated length: the connection ends with it
