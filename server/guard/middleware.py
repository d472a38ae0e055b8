"""The guard in front of every route: keys, body size, requests per key.

Plain ASGI, as `Gate` in `server/gate.py`, and for the same reason.  What is not open needs a key,
whether there is such a route or not.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boomerang_core.errors import SettingsError
from server.access import KEY_NAME
from server.errors import RefusedError, refusal_response
from server.guard.key_files import KeyFiles
from server.guard.keys import Key, Keys
from server.guard.limits import Limits, RequestSlots, RequestsPerKey, Slots
from server.metrics import Metrics
from server.paths import PROBES
from server.settings import Settings

PAGE = ("/", "/page/")
"""The page and the folder of its static files; what it asks for needs a key as anyone's request."""

REQUEST_SLOTS = "boomerang.request_slots"
"""Key of the ASGI scope under which a route finds the request's `RequestSlots`."""

_ADMIN = "/admin"
_DISCARD_SECONDS = 1.0
_CLOSE = {"Connection": "close"}  # nobody reads the rest of a refused body
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="boomerang"', **_CLOSE}


@dataclass(frozen=True)
class Guarding:
    """The keys, as they are while the server runs, and the limits."""

    limits: Limits
    keys: KeyFiles = field(default_factory=KeyFiles)

    def __post_init__(self) -> None:
        if self.limits.requests_per_key is not None and self.keys.now().api is None:
            raise SettingsError("max_requests_per_key needs api_keys_file")

    @classmethod
    def of(cls, settings: Settings) -> "Guarding":
        """What a server was told; reads the key files.  Raises `SettingsError`."""
        files = KeyFiles(settings.api_keys_file, settings.admin_keys_file)
        return cls(Limits.of(settings), files)


class Guard:
    """Refuses what has no key or is too much; gives the slots of a request back at its end."""

    def __init__(self, app: ASGIApp, guarding: Guarding, metrics: Metrics) -> None:
        self._app = app
        self._guarding = guarding
        self._metrics = metrics
        self._slots = Slots(guarding.limits.sequences)
        self._per_key = RequestsPerKey(guarding.limits.requests_per_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        slots = scope[REQUEST_SLOTS] = RequestSlots(self._slots)
        body = BoundedBody(receive, send, self._guarding.limits)
        try:
            key = self._key_of(scope)
            body.check_declared(Headers(scope=scope).get("content-length", "0"))
            with self._per_key.of(key):
                await self._app(scope, body.receive, body.send)
        except RefusedError as refusal:  # raised here: a route's own is answered by the app
            self._metrics.refused(refusal.reason)
            body.refused = True
            await refusal_response(refusal)(scope, receive, body.send)
        finally:
            slots.release()

    def _key_of(self, scope: Scope) -> bytes | None:
        """The digest of the request's API key; None where it needs none, or has an admin's."""
        path = scope["path"]
        if _is_open(path, scope["method"]):
            return None
        doors = self._guarding.keys.now()
        if path == _ADMIN or path.startswith(f"{_ADMIN}/"):
            if doors.admin is None:
                raise RefusedError(
                    HTTPStatus.NOT_FOUND,
                    "there is no /admin without admin_keys_file",
                    "unauthorized",
                )
            _authorised(scope, doors.admin, "an admin key")
            return None
        if doors.api is None:
            return None
        return _authorised(scope, doors.api, "an API key").digest


class BoundedBody:
    """Counts a body while it is read, and refuses it as soon as it is too large, or too slow.

    The reply to a refused request comes before the body's end, and closes the connection.  Many
    clients send on before they read; were the socket shut at once, they would lose the reply.  So
    what they send is thrown away for a moment first.
    """

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds
        self._seen = 0
        self._ended = False
        self.refused = False

    def check_declared(self, length: str) -> None:
        """Refuse a body by the length it declares, before a byte of it is read."""
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body, or the client's leaving once there is no more.

        `RefusedError`: 413 once there is too much of it, 408 once it has taken too long.
        """
        try:
            async with asyncio.timeout_at(None if self._ended else self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            self.refused = True
            raise self._too_slow() from error
        self._seen += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._seen > self._limits.body_bytes:
            self.refused = True
            raise self._too_large()
        return message

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
            "too_large",
            headers=_CLOSE,
        )

    def _too_slow(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive within {self._limits.body_seconds:g} seconds",
            "too_slow",
            headers=_CLOSE,
        )


def _is_open(path: str, method: str) -> bool:
    if path in PROBES:
        return True
    root, folder = PAGE
    return method in ("GET", "HEAD") and (path == root or path.startswith(folder))


def _authorised(scope: Scope, keys: Keys, what: str) -> Key:
    """The request's key, named for the log; `RefusedError` (401) without one that is known."""
    scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise _unauthorised(f"{what} is needed: Authorization: Bearer KEY")
    key = keys.find(given.strip())
    if key is None:
        raise _unauthorised(f"this is not {what} of this server")
    scope[KEY_NAME] = key.name
    return key


def _unauthorised(message: str) -> RefusedError:
    return RefusedError(HTTPStatus.UNAUTHORIZED, message, "unauthorized", headers=_CHALLENGE)
