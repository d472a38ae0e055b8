"""One line per request: what ran, why, how long it took.  Never what was asked or answered."""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.logs import ACCESS
from server.web.paths import COMPLETIONS, PROBES
from server.web.request_ids import REQUEST_ID, is_plain_id
from server.web.usage import Usage, usage

logger = logging.getLogger(ACCESS)

KEY_NAME = "boomerang.key_name"
"""Key of the ASGI scope: what the log calls the key of a request that was let in with one."""
CLIENT_GONE = 499
"""Status that is logged where the client left before a reply (nginx's number for it)."""

ERROR_EVENT = b'data: {"error"'
"""How an event begins that ends a stream instead of the rest of the answer; ours and vLLM's."""


class AccessLog:
    """Plain ASGI, the outermost: it sees every reply, refusals included, to its last byte."""

    def __init__(
        self, app: ASGIApp, on_response: Callable[[int], None] = lambda status: None
    ) -> None:
        """`on_response` is told how each request for a completion ended; see `_outcome`."""
        self._app = app
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, headers = CLIENT_GONE, Headers()
        whole = failed = told = False
        spent = Usage()
        token = usage.set(spent)

        async def noting(message: Message) -> None:
            nonlocal status, headers, whole, told
            if message["type"] == "http.response.start":
                status, headers = message["status"], Headers(raw=message["headers"])
            told = told or message.get("body", b"").startswith(ERROR_EVENT)
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, noting)
        except BaseException:
            failed = True
            if status == CLIENT_GONE:
                status = HTTPStatus.INTERNAL_SERVER_ERROR
            raise
        finally:
            usage.reset(token)
            if scope["path"] in COMPLETIONS and scope["method"] == "POST":
                self._on_response(_outcome(status, whole, failed or (told and whole)))
            if logger.isEnabledFor(logging.INFO):
                broken = bool(headers) and (told or not whole)
                _log(scope, status, headers, broken, spent, time.monotonic() - began)


def _outcome(status: int, whole: bool, failed: bool) -> int:
    """The status of a response; of one that was cut short, who is to blame for that.

    `failed`: it raised, or a stream's last event tells of an error.

    The log keeps the status that was sent, which was 200 where a stream had begun.
    """
    if failed:
        return HTTPStatus.INTERNAL_SERVER_ERROR
    return status if whole else CLIENT_GONE


def _log(
    scope: Scope, status: int, headers: Headers, broken: bool, spent: Usage, seconds: float
) -> None:
    given = Headers(scope=scope).get(REQUEST_ID, "")  # `Gate` has put it there, if it was asked
    fields: dict[str, Any] = {
        "request_id": given if is_plain_id(given) else None,
        "method": scope["method"],
        "path": quote(scope["path"][:200]),  # decoded by uvicorn: it may hold line ends
        "status": int(status),
        "ended": "broken" if broken else None,
        "seconds": _rounded(seconds),
        "key": scope.get(KEY_NAME),
        "size": headers.get("x-boomerang-size"),
        "reason": headers.get("x-boomerang-reason"),
        "prompt_tokens": spent.prompt_tokens or None,
        "generated_tokens": spent.generated_tokens or None,
        "first_token_seconds": _rounded(spent.first_token_seconds),
        "token_seconds": _rounded(spent.token_seconds),
    }
    known = {name: value for name, value in fields.items() if value is not None}
    logger.info("%s", " ".join(f"{k}={v}" for k, v in known.items()), extra=known)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
