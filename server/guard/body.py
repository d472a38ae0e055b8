"""A bound on how large a body may be, and how long it may take to arrive."""

import asyncio
from contextlib import suppress
from http import HTTPStatus

from starlette.types import Message, Receive, Send

from server.guard.limits import Limits
from server.guard.slots import CLOSE, Arriving
from server.refusals import Refusal
from server.web.errors import RefusedError

_DISCARD_SECONDS = 1.0


class BoundedBody:
    """Counts a body while it is read, and refuses it as soon as it is too large, or too slow.

    The reply to a refused request comes before the body's end, and closes the connection.  Many
    clients send on before they read; were the socket shut at once, they would lose the reply.  So
    what they send is thrown away for a moment first.
    """

    def __init__(self, receive: Receive, send: Send, limits: Limits, arriving: Arriving) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._arriving = arriving
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds
        self._seen = self._held = 0
        self._ended = False
        self.refused = False

    def check_declared(self, length: str) -> None:
        """Refuse a body by the length it declares, before a byte of it is read."""
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body, or the client's leaving once there is no more.

        `RefusedError`: 413 once there is too much of it, 408 once it has taken too long, 429 where
        too much of others is on its way too.
        """
        try:
            async with asyncio.timeout_at(None if self._ended else self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            self.refused = True
            raise self._too_slow() from error
        part = len(message.get("body", b""))
        self._seen += part
        self._ended = not message.get("more_body", False)
        if self._seen > self._limits.body_bytes:
            self.refused = True
            raise self._too_large()
        self._hold(part)
        return message

    def release(self) -> None:
        """Count it no more among what arrives: it is whole, or its request has ended."""
        self._arriving.give(self._held)
        self._held = 0

    def _hold(self, part: int) -> None:
        if self._ended:
            self.release()
            return
        try:
            self._arriving.take(part)
        except RefusedError:
            self.refused = True
            raise
        self._held += part

    async def send(self, message: Message) -> None:
        """Send the reply; a refused request's ends when its body has, or the moment is over."""
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (self.refused and last):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._discard()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _discard(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not self._ended:
                    self._ended = not (await self._receive()).get("more_body", False)

    def _too_large(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {self._limits.body_bytes} bytes, the most allowed",
            Refusal.TOO_LARGE,
            headers=CLOSE,
        )

    def _too_slow(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive within {self._limits.body_seconds:g} seconds",
            Refusal.TOO_SLOW,
            headers=CLOSE,
        )
