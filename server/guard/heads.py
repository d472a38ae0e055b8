"""A bound on how long a connection may keep silent, or take over the head of a request.

uvicorn times a connection only between an answer and the next byte.  One that never says anything,
or drips its head, would be kept for ever: with it goes a file descriptor, and no key was asked for.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class BoundedHeads(HttpToolsProtocol):
    """Closes a connection that runs nothing and whose next request does not come in time.

    A head counts from its first byte, or from the end of the answer before it (pipelining).  What
    runs is never cut, whatever lies behind it.
    """

    head_seconds = 60.0
    _in_head = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._expect_head()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ours does not end with the next byte
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._stop_waiting()
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.transport.is_closing():
            seconds = self.head_seconds if self._in_head else self.timeout_keep_alive
            self._timer = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def heads_within(seconds: float) -> type[BoundedHeads]:
    """The protocol for `uvicorn.Config`, with a bound of its own for the head of a request."""
    return type("BoundedHeads", (BoundedHeads,), {"head_seconds": seconds})
