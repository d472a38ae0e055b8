"""A bound on how long a client may leave its answer unread.

uvicorn's `send` waits while the buffers of a socket are full.  A client that keeps its connection
and reads no more would wait with them for ever: with its slots, the lease of its size, and its
place among what is in flight.
"""

import asyncio
import logging
import socket
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics import Metrics
from server.refusals import Refusal
from server.web.request_ids import REQUEST_ID

logger = logging.getLogger(__name__)

_MOST_MILLISECONDS = 2**31 - 1


class StalledError(Exception):
    """The client has not read on for too long.  Never leaves `BoundedSend`."""


class BoundedSend:
    """Breaks an answer off when one message of it could not be sent in time.

    Plain ASGI, outside of all that holds something for a request: they see `send` fail, as they see
    any other error.  Nobody can be told; uvicorn closes the connection of an answer without an end.
    """

    def __init__(self, app: ASGIApp, seconds: float, metrics: Metrics) -> None:
        self._app = app
        self._seconds = seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._seconds):
                    await send(message)
            except TimeoutError as error:
                raise StalledError from error

        try:
            await self._app(scope, receive, send_in_time)
        except StalledError:
            self._metrics.refused(Refusal.STALLED)
            logger.warning(
                "an answer is broken off: its client did not read on for %g seconds; request %s",
                self._seconds,
                Headers(scope=scope).get(REQUEST_ID),
            )


def bound_unread(listening: socket.socket, seconds: float) -> None:
    """Let the kernel end connections whose client reads nothing, where it can (Linux).

    `BoundedSend` frees what the server holds; the connection, closed by uvicorn, would still wait
    for its last bytes to be read.  Accepted sockets inherit the option.  Twice as long as
    `BoundedSend` waits, which so sees it first, and counts it; not where an answer grows so slowly
    that the buffers have room till then, and it ends as if the client had gone.
    """
    with suppress(AttributeError):
        option = socket.TCP_USER_TIMEOUT
        milliseconds = min(round(2000 * seconds), _MOST_MILLISECONDS)
        listening.setsockopt(socket.IPPROTO_TCP, option, milliseconds)
