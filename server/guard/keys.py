"""Keys from a file: one a line, kept as digests, compared in constant time, never shown.

An empty line and a line that begins with `#` are no keys.
"""

import hmac
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from boomerang_core.errors import SettingsError

MIN_LENGTH = 16
"""Shorter keys are refused: they could be guessed."""

_KEY = re.compile(rf"[\x21-\x7e]{{{MIN_LENGTH},}}")


@dataclass(frozen=True)
class Keys:
    """The SHA-256 digests of the keys, in the order of the file."""

    digests: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        assert self.digests
        assert len(set(self.digests)) == len(self.digests)

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """The keys of a file; `SettingsError`, with the line's number and not the line, if bad."""
        digests: dict[bytes, None] = {}
        for number, line in enumerate(_lines(path), 1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if not _KEY.fullmatch(key):
                raise SettingsError(
                    f"{path}, line {number}: a key is {MIN_LENGTH} or more printable ASCII "
                    "characters, without spaces"
                )
            digests[_digest(key)] = None
        if not digests:
            raise SettingsError(f"{path} holds no key")
        return cls(tuple(digests))

    def place(self, given: str) -> int | None:
        """Which key this is, counted from 0, or None.  Compares with all of them in any case."""
        digest, found = _digest(given), None
        for place, own in enumerate(self.digests):
            if hmac.compare_digest(own, digest):
                found = place
        return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"cannot read the keys of {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text file") from error


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
