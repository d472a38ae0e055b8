"""A response that holds the lease of its size until it has been sent."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class LeasedResponse(Response):
    """A response, a stream it may be, that ends the lease of its size when it has been sent."""

    def __init__(self, inner: Response, lease: ExitStack) -> None:
        self._inner, self._lease = inner, lease
        self.status_code, self.background = inner.status_code, inner.background
        self.raw_headers = inner.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, whole or not."""
        with self._lease:
            try:
                await self._inner(scope, receive, send)
            finally:
                await self._close()

    async def _close(self) -> None:
        """End what makes a stream, and with it the request in the engine.

        One whose `send` failed waits at its `yield`; starlette leaves it to the garbage collector.
        """
        if isinstance(body := getattr(self._inner, "body_iterator", None), AsyncGenerator):
            await body.aclose()
