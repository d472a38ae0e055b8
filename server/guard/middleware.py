"""The guard in front of every route: keys, body size, requests per key.

Plain ASGI, as `Gate` in `server/app.py`, and for the same reason.  What is not open needs a key,
whether there is such a route or not.
"""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boomerang_core.errors import SettingsError
from server.errors import RefusedError, refusal_response
from server.guard.keys import Keys
from server.guard.limits import Hold, Limits, Slots, Turns
from server.metrics import Metrics
from server.settings import Settings

PROBES = frozenset({"/live", "/ready", "/health", "/metrics"})
PAGE = ("/", "/page/")
"""The page and the folder of its static files; what it asks for needs a key as anyone's request."""

HOLD = "boomerang.hold"
"""Key of the ASGI scope under which a route finds the request's `Hold`."""

_ADMIN = "/admin"
_CLOSE = {"Connection": "close"}  # nobody reads the rest of a refused body
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="boomerang"', **_CLOSE}


@dataclass(frozen=True)
class Guarding:
    """Which keys open what, and the limits.  Without `api_keys` all but `/admin` is open."""

    limits: Limits
    api_keys: Keys | None = None
    admin_keys: Keys | None = None

    def __post_init__(self) -> None:
        api, admin = (set(k.digests) if k else set() for k in (self.api_keys, self.admin_keys))
        if api & admin:
            raise SettingsError("a key is in both api_keys_file and admin_keys_file")
        if self.limits.requests_per_key is not None and self.api_keys is None:
            raise SettingsError("max_requests_per_key needs api_keys_file")

    @classmethod
    def of(cls, settings: Settings) -> "Guarding":
        """What a server was told; reads the key files.  Raises `SettingsError`."""
        files = (settings.api_keys_file, settings.admin_keys_file)
        api_keys, admin_keys = (None if file is None else Keys.read(file) for file in files)
        return cls(Limits.of(settings), api_keys, admin_keys)


class Guard:
    """Refuses what has no key or is too much; gives the slots of a request back at its end."""

    def __init__(self, app: ASGIApp, guarding: Guarding, metrics: Metrics) -> None:
        self._app = app
        self._guarding = guarding
        self._metrics = metrics
        self._slots = Slots(guarding.limits.sequences)
        self._turns = Turns(guarding.limits.requests_per_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hold = scope[HOLD] = Hold(self._slots)
        try:
            key = self._key_of(scope)
            _refuse_declared(scope, self._guarding.limits.body_bytes)
            with self._turns.of(key):
                await self._app(scope, self._bounded(receive), send)
        except RefusedError as refusal:  # raised here: a route's own is answered by the app
            self._metrics.refused(refusal.reason)
            await refusal_response(refusal)(scope, receive, send)
        finally:
            hold.release()

    def _key_of(self, scope: Scope) -> int | None:
        """The place of the request's API key; None where it needs none, or has an admin's."""
        path = scope["path"]
        if _is_open(path, scope["method"]):
            return None
        if path == _ADMIN or path.startswith(f"{_ADMIN}/"):
            if self._guarding.admin_keys is None:
                raise RefusedError(
                    HTTPStatus.NOT_FOUND,
                    "there is no /admin without admin_keys_file",
                    "unauthorized",
                )
            _authorised(scope, self._guarding.admin_keys, "an admin key")
            return None
        if self._guarding.api_keys is None:
            return None
        return _authorised(scope, self._guarding.api_keys, "an API key")

    def _bounded(self, receive: Receive) -> Receive:
        """`receive`, which counts the bytes of a body that comes without its length."""
        limit, seen = self._guarding.limits.body_bytes, 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _body_too_large(limit)
            return message

        return counted


def _is_open(path: str, method: str) -> bool:
    if path in PROBES:
        return True
    root, folder = PAGE
    return method in ("GET", "HEAD") and (path == root or path.startswith(folder))


def _authorised(scope: Scope, keys: Keys, what: str) -> int:
    """The place of the request's key; `RefusedError` (401) without a key that is known."""
    scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise _unauthorised(f"{what} is needed: Authorization: Bearer KEY")
    place = keys.place(given.strip())
    if place is None:
        raise _unauthorised(f"this is not {what} of this server")
    return place


def _unauthorised(message: str) -> RefusedError:
    return RefusedError(HTTPStatus.UNAUTHORIZED, message, "unauthorized", headers=_CHALLENGE)


def _refuse_declared(scope: Scope, limit: int) -> None:
    """Refuse a body by the length it declares, before a byte of it is read."""
    declared = Headers(scope=scope).get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise _body_too_large(limit)


def _body_too_large(limit: int) -> RefusedError:
    return RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes, the most allowed",
        "too_large",
        headers=_CLOSE,
    )
