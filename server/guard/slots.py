"""Counts what arrives, runs and waits, of all requests and of each key; refuses too much."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from server.refusals import Refusal
from server.web.errors import RefusedError

RETRY_SECONDS = 1
"""What a refused client is told to wait before it asks again."""

CLOSE = {"Connection": "close"}
"""Of a refusal before the body's end: nobody reads the rest."""

_RETRY = {"Retry-After": str(RETRY_SECONDS)}


class Slots:
    """Counts the answers that run and wait; the queue behind the engine is bounded by it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.taken = 0

    def take(self, count: int) -> None:
        """Take slots, or raise `RefusedError` (429) where so many are not free."""
        if self.taken + count > self._total:
            raise self._refusal()
        self.taken += count

    def give(self, count: int) -> None:
        """Give slots back."""
        assert 0 <= count <= self.taken
        self.taken -= count

    def _refusal(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"the server is busy: {self.taken} answers run or wait; try again later",
            Refusal.QUEUE_FULL,
            headers=_RETRY,
        )


class Arriving(Slots):
    """Counts the bytes of bodies that are on their way, which are held before a slot is taken."""

    def _refusal(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"the server is busy: {self.taken} bytes of other requests are on their way; "
            "try again later",
            Refusal.TOO_MANY,
            headers={**_RETRY, **CLOSE},
        )


class RequestSlots:
    """The slots of one request, given back together when it ends, however it ends."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._count = 0

    def take(self, count: int) -> None:
        """Take slots; `RefusedError` (429) where so many are not free."""
        self._slots.take(count)
        self._count += count

    def release(self) -> None:
        """Give back what was taken."""
        self._slots.give(self._count)
        self._count = 0


class RequestsPerKey:
    """Counts the requests of each key, by its digest, that are being answered."""

    def __init__(self, per_key: int | None) -> None:
        self._per_key = per_key
        self._running: Counter[bytes] = Counter()

    @contextmanager
    def of(self, key: bytes | None) -> Iterator[None]:
        """One request of a key; `RefusedError` (429) where the key has as many as it may."""
        if key is None or self._per_key is None:
            yield
            return
        if self._running[key] >= self._per_key:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"this API key has {self._per_key} requests running, the most allowed",
                Refusal.TOO_MANY,
                headers=_RETRY,
            )
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
