"""The first thing that a request meets: an id, and 503 until there is an engine."""

import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.process.lifecycle import Lifecycle
from server.web.errors import TRY_AGAIN, error_response
from server.web.paths import TOKENIZING
from server.web.request_ids import MADE_ID, REQUEST_ID, is_plain_id


class Gate:
    """Echoes `X-Request-Id` on every reply, and answers 503 until the engine is there.

    Plain ASGI: a middleware that wraps the body would break streaming and disconnects.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID)
        scope[MADE_ID] = not is_plain_id(given)
        if scope[MADE_ID]:
            MutableHeaders(scope=scope)[REQUEST_ID] = uuid.uuid4().hex  # vLLM names requests by it

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = Headers(scope=scope)[REQUEST_ID]
            await send(message)

        needs_engine = scope["path"].startswith("/v1/") or scope["path"] in TOKENIZING
        if needs_engine and not self._lifecycle.accepts:
            refusal = error_response(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the server is {self._lifecycle.state}",
                headers=TRY_AGAIN,
            )
            await refusal(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)
