"""The keys of a running server: they follow their files.

A file is looked at when a request comes that needs a key, and not more often than every
`LOOK_SECONDS`.  So no thread is needed, and a change is seen before the request is let in.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from boomerang_core.errors import SettingsError
from server.guard.keys import Keys
from server.logs import LIFE

logger = logging.getLogger(LIFE)

LOOK_SECONDS = 2.0

_Identity = tuple[int, ...] | None


@dataclass(frozen=True)
class ValidKeys:
    """The keys that count at present.

    Without `api` all but `/admin` needs none; without `admin` there is no `/admin`.

    Raises `SettingsError` where a key is of both kinds.
    """

    api: Keys | None = None
    admin: Keys | None = None

    def __post_init__(self) -> None:
        api, admin = ({k.digest for k in keys.all} if keys else set() for keys in self.kinds)
        if api & admin:
            raise SettingsError("a key is in both api_keys_file and admin_keys_file")

    @property
    def kinds(self) -> tuple[Keys | None, Keys | None]:
        """Both kinds, in the order of the files."""
        return self.api, self.admin

    def __str__(self) -> str:
        named = zip(self.kinds, ("API", "admin"), strict=True)
        return ", ".join(
            f"{(n := len(keys.all))} {kind} key{'s' * (n != 1)}" for keys, kind in named if keys
        )


class KeyFiles:
    """The keys of a file of API keys and one of admin keys; each may be None.

    A file that cannot be used any more keeps the keys that were read last: an operator's slip must
    not lock everyone out.  It is read again at each look until it can.
    """

    def __init__(
        self,
        api: Path | None = None,
        admin: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the files; raises `SettingsError` where one is bad."""
        self._paths = (api, admin)
        self._identities = self._identify()
        self._valid = ValidKeys(
            *(None if path is None else Keys.read(path) for path in self._paths)
        )
        self._clock = clock
        self._next_look = clock() + LOOK_SECONDS
        self._errors: list[str] = []

    def now(self) -> ValidKeys:
        """The keys that count at this moment."""
        if (now := self._clock()) >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            identities = self._identify()  # before reading: what changes in between is seen later
            if self._errors or identities != self._identities:
                self._identities = identities
                self._read_again()
        return self._valid

    def _read_again(self) -> None:
        errors: list[str] = []
        valid = self._valid
        kinds = zip(self._paths, valid.kinds, strict=True)
        try:
            valid = ValidKeys(*(_read(path, kept, errors) for path, kept in kinds))
        except SettingsError as error:
            errors.append(str(error))
        for why in errors:
            if why not in self._errors:
                logger.error("%s; the keys that were read before stay valid", why)
        if valid != self._valid or (self._errors and not errors):
            logger.info("the keys were read again: %s", valid)
        self._valid, self._errors = valid, errors

    def _identify(self) -> tuple[_Identity, ...]:
        return tuple(None if path is None else _identity(path) for path in self._paths)


def _read(path: Path | None, kept: Keys | None, errors: list[str]) -> Keys | None:
    """The keys of a file, or those kept where it cannot be used, and why in `errors`.

    What can be read once only, a pipe, is not followed.
    """
    if path is None or path.is_fifo() or path.is_char_device():
        return kept
    try:
        return Keys.read(path)
    except SettingsError as error:
        errors.append(str(error))
        return kept


def _identity(path: Path) -> _Identity:
    """Another one where there is another file, or it was written to; links are followed."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
