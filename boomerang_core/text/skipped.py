"""Records that cannot be used: passed over and counted while they are few, else an error."""

from __future__ import annotations

from dataclasses import dataclass

from boomerang_core.errors import DataError

HANDFUL = 10
SHARE = 0.01
"""More than a handful and than this share of all, and the source is not what it should be."""


@dataclass
class Skipped:
    """How many records of a source were read, and how many of them were passed over.

    `first` is what was wrong with the first of these, and where it stands.
    """

    source: str
    read: int = 0
    count: int = 0
    first: str = ""

    def skip(self, reason: str) -> None:
        """Pass over one more."""
        self.first = self.first or reason
        self.count += 1

    def require_few(self) -> None:
        """Raise DataError where there are too many, as far as the source was read."""
        if self.count > max(HANDFUL, SHARE * self.read):
            raise DataError(
                f"{self.source}: {self.count:,} of {self.read:,} records cannot be used; "
                f"the first: {self.first}"
            )

    def none_left(self, otherwise: str) -> DataError:
        """The error of a source without a document: why none could be used, or what is said."""
        if not self.count:
            return DataError(otherwise)
        return DataError(f"no record of {self.source} can be used; the first: {self.first}")

    def __str__(self) -> str:
        return f"passed over: {self.count:,} of {self.read:,} records; the first: {self.first}"
