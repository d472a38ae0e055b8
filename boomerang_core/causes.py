"""Whether what caused an error may pass: the hub out of reach, a volume that fails, a full disk.

A library's error is known by the names of its classes: none of these libraries need be there.
"""

import errno
import re
from collections.abc import Iterator

_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOSPC,
        errno.EREMOTEIO,
        errno.ESTALE,
    }
)
# Of Python, requests and aiohttp; httpx calls all of these TransportError.
_NETWORK = frozenset({"ConnectionError", "TimeoutError", "Timeout", "TransportError"})
_OFFLINE = "OfflineModeIsEnabled"  # a ConnectionError that the user asked for
_BUSY = frozenset({408, 429})
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as safetensors writes the system's errors


def may_pass(error: BaseException) -> bool:
    """Whether the same command may succeed later, by the error and all that led to it."""
    causes = list(_causes(error))
    if any(_OFFLINE in _names(cause) or _OFFLINE in str(cause) for cause in causes):
        return False
    return any(_passes(cause) for cause in causes)


def http_error() -> type[Exception]:
    """What the hub's client lets through of its library of HTTP; by name, as that has changed."""
    from huggingface_hub import errors

    found: type[Exception] = getattr(errors, "HTTPError", OSError)
    return found


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, or while: libraries hide either."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _passes(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status in _BUSY
    told = _OS_ERROR.search(str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    return number in _ERRNOS or not _NETWORK.isdisjoint(_names(error))


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}
