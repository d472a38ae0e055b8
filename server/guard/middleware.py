"""The guard in front of every route: keys, body size, requests per key.

Plain ASGI, as `Gate` in `server/web/gate.py`, and for the same reason.  What is not open needs a
key, whether there is such a route or not.
"""

from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from boomerang_core.errors import SettingsError
from server.guard.body import BoundedBody
from server.guard.key_files import KeyFiles
from server.guard.keys import Key, Keys
from server.guard.limits import Limits
from server.guard.slots import CLOSE, Arriving, RequestSlots, RequestsPerKey, Slots
from server.metrics import Metrics
from server.refusals import Refusal
from server.settings import Settings
from server.web.access import KEY_NAME
from server.web.errors import RefusedError, refusal_response
from server.web.paths import PROBES

PAGE = ("/", "/page/")
"""The page and the folder of its static files; what it asks for needs a key as anyone's request."""

BODIES = 16
"""How many of the largest bodies may be on their way at the same time."""

REQUEST_SLOTS = "boomerang.request_slots"
"""Key of the ASGI scope under which a route finds the request's `RequestSlots`."""

_ADMIN = "/admin"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="boomerang"', **CLOSE}


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
        self._arriving = Arriving(BODIES * guarding.limits.body_bytes)
        self._per_key = RequestsPerKey(guarding.limits.requests_per_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        slots = scope[REQUEST_SLOTS] = RequestSlots(self._slots)
        body = BoundedBody(receive, send, self._guarding.limits, self._arriving)
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
            body.release()

    def _key_of(self, scope: Scope) -> bytes | None:
        """The digest of the request's API key; None where it needs none, or has an admin's."""
        path = scope["path"]
        if _is_open(path, scope["method"]):
            return None
        valid = self._guarding.keys.now()
        if path == _ADMIN or path.startswith(f"{_ADMIN}/"):
            if valid.admin is None:
                raise RefusedError(
                    HTTPStatus.NOT_FOUND,
                    "there is no /admin without admin_keys_file",
                    Refusal.UNAUTHORIZED,
                )
            _authorised(scope, valid.admin, "an admin key")
            return None
        if valid.api is None:
            return None
        return _authorised(scope, valid.api, "an API key").digest


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
    return RefusedError(HTTPStatus.UNAUTHORIZED, message, Refusal.UNAUTHORIZED, headers=_CHALLENGE)
