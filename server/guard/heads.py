"""Bounds on the head of a request: how long it may take, or a connection keep silent, and its size.

uvicorn times a connection only between an answer and the next byte.  One that never says anything,
or drips its head, would be kept for ever: with it goes a file descriptor, and no key was asked for.
Nor does uvicorn count what comes before a body, or in trailers behind it, which it all keeps.
"""

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.web.errors import error_body

HEAD_BYTES = 65536
"""Most bytes of a request that are no body: its line and headers, and trailers if there are any."""

_FRAMING = 32
"""Bytes around a chunk of a body, with room for those of clients that pad its length."""

_STATUS = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class BoundedHeads(HttpToolsProtocol):
    """Closes a connection that runs nothing and whose next request does not come in time, and one
    whose request has a larger head.

    A head's time counts from its first byte, or from the end of the answer before it (pipelining).
    What runs is never cut for the time that what lies behind it takes.
    """

    head_seconds = 60.0
    _in_head = False
    _outside = 0  # bytes of this request that are no body, but for those that its first came with
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        self._outside += len(data)
        super().data_received(data)
        if self._outside > HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._outside = 0
        self._expect_head()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self._stop_waiting()

    def on_body(self, body: bytes) -> None:
        self._outside = max(0, self._outside - len(body) - _FRAMING)
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ours does not end with the next byte
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _refuse(self) -> None:
        """Close; where nothing runs that is to be answered, with a 431."""
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            message = f"the head of the request is larger than {HEAD_BYTES} bytes, the most allowed"
            body = json.dumps(error_body(_STATUS, message)).encode()
            length = str(len(body)).encode()
            self.transport.write(
                STATUS_LINE[_STATUS]
                + b"content-type: application/json\r\nconnection: close\r\n"
                + b"content-length: %b\r\n\r\n%b" % (length, body)
            )
        self.transport.close()

    def _expect_head(self) -> None:
        self._stop_waiting()
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.transport.is_closing():
            seconds = self.head_seconds if self._in_head else self.timeout_keep_alive
            if self.cycle is None:  # keep-alive is for those who have asked, some with a key
                seconds = min(seconds, self.head_seconds)
            self._timer = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def heads_within(seconds: float) -> type[BoundedHeads]:
    """The protocol for `uvicorn.Config`, with a bound of its own for the head of a request."""
    return type("BoundedHeads", (BoundedHeads,), {"head_seconds": seconds})
