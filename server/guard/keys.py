"""Keys from a file: one a line, kept as digests, compared in constant time, never shown.

    # an empty line, and a line that begins with #, are no keys
    c2VjcmV0LW9mLXRlYW0tb25l  # team-one

What follows a key after ` # ` is its name: what the log calls it.
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
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")
_LINE = re.compile(r"(?P<key>\S+)(\s+#\s*(?P<name>.*))?")
_SHOWN = 8
"""Hexadecimal digits of the digest that name a key without a name: enough to tell keys apart."""


@dataclass(frozen=True)
class Key:
    """The SHA-256 digest of a key, and what the log calls it."""

    digest: bytes = field(repr=False)
    name: str


@dataclass(frozen=True)
class Keys:
    """The keys of a file, in its order, each once."""

    all: tuple[Key, ...]

    def __post_init__(self) -> None:
        assert self.all
        assert len({key.digest for key in self.all}) == len(self.all)

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """The keys of a file; `SettingsError`, with the line's number and not the line, if bad."""
        found: dict[bytes, Key] = {}
        for number, line in enumerate(_lines(path), 1):
            text = line.strip()
            if text and not text.startswith("#"):
                key = _key_of(text, f"{path}, line {number}")
                found.setdefault(key.digest, key)
        if not found:
            raise SettingsError(f"{path} holds no key")
        return cls(tuple(found.values()))

    def find(self, given: str) -> Key | None:
        """Which key this is, or None.  Compares with all of them in any case."""
        digest, found = _digest(given), None
        for key in self.all:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _key_of(text: str, where: str) -> Key:
    line = _LINE.fullmatch(text)
    if line is None or not _KEY.fullmatch(line["key"]):
        raise SettingsError(
            f"{where}: a key is {MIN_LENGTH} or more printable ASCII characters, without spaces; "
            "its name follows after ' # '"
        )
    digest, name = _digest(line["key"]), line["name"]
    if name is None:
        return Key(digest, digest.hex()[:_SHOWN])
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{where}: the name of a key is of at most 64 letters, digits and . _ @ / -"
        )
    return Key(digest, name)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"cannot read the keys of {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text file") from error


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
