"""How much one request, one key, and all requests together may ask for."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from server.prompts import prompts_of
from server.settings import Settings
from server.web.errors import RefusedError

RETRY_SECONDS = 1
"""What a refused client is told to wait before it asks again."""

_RETRY = {"Retry-After": str(RETRY_SECONDS)}


@dataclass(frozen=True)
class Limits:
    """Upper bounds; None: no bound of its own.

    `choices` counts the answers of one request, `n` times its prompts.  `sequences` is how many
    answers may run and wait at the same time, of all requests together.
    """

    body_bytes: int
    body_seconds: float
    prompt_tokens: int | None
    choices: int
    stop_strings: int
    requests_per_key: int | None
    sequences: int

    def __post_init__(self) -> None:
        assert 0 < self.choices <= self.sequences, "a request that could never be let in"

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits that a server was told."""
        sequences = settings.max_num_seqs + settings.max_waiting
        return cls(
            body_bytes=settings.max_body_bytes,
            body_seconds=settings.body_timeout_seconds,
            prompt_tokens=settings.max_prompt_tokens,
            choices=min(settings.max_choices, sequences),
            stop_strings=settings.max_stop_strings,
            requests_per_key=settings.max_requests_per_key,
            sequences=sequences,
        )

    def check(self, choices: int, stop: Any) -> None:
        """Raise `RefusedError` (400) for a request that asks for too many answers or stops."""
        if choices > self.choices:
            raise _too_large(
                f"the request asks for {choices} answers (n times its prompts); "
                f"at most {self.choices} are allowed",
                "n",
            )
        stops = len(stop) if isinstance(stop, list) else bool(stop)  # a string is one
        if stops > self.stop_strings:
            raise _too_large(
                f"{stops:d} stop strings are too many; at most {self.stop_strings} are allowed",
                "stop",
            )


def prompt_too_long(message: str, param: str) -> RefusedError:
    """The refusal of a prompt with more tokens than allowed, in vLLM's words: clients know them."""
    return _too_large(message, param)


def _too_large(message: str, param: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, message, "too_large", param)


def count_choices(n: int | None, prompt: Any) -> int:
    """How many answers a request asks for; `prompt`: None for a chat."""
    return max(n or 1, 1) * len(prompts_of(prompt))


class Slots:
    """Counts the answers that run and wait; the queue behind the engine is bounded by it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.taken = 0

    def take(self, count: int) -> None:
        """Take slots, or raise `RefusedError` (429) where so many are not free."""
        if self.taken + count > self._total:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the server is busy: {self.taken} answers run or wait; try again later",
                "queue_full",
                headers=_RETRY,
            )
        self.taken += count

    def give(self, count: int) -> None:
        """Give slots back."""
        assert 0 <= count <= self.taken
        self.taken -= count


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
                "too_many",
                headers=_RETRY,
            )
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
