"""How much one request may ask for, and what the counts in `slots.py` may come to."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from server.prompts import prompts_of
from server.refusals import Refusal
from server.settings import Settings
from server.web.errors import RefusedError


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
    return RefusedError(HTTPStatus.BAD_REQUEST, message, Refusal.TOO_LARGE, param)


def count_choices(n: int | None, prompt: Any) -> int:
    """How many answers a request asks for; `prompt`: None for a chat."""
    return max(n or 1, 1) * len(prompts_of(prompt))
