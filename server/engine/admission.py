"""Refuse bad sizes in the front end: vLLM calls `validate_params` there for every request.

vLLM names an admission class by a string, and calls a class method that sees only the request.
The number of sizes is therefore part of the class's name: ``admission:UpTo12`` admits sizes 0 to
12.  The module makes such a class when it is asked for (PEP 562), in whichever process asks.
"""

from functools import cache
from typing import Any

from server.engine.compat import LogitsProcessor
from server.engine.sizes import SIZE_KEY, is_size

_PREFIX = "UpTo"


class SizeAdmission(LogitsProcessor):
    """Changes no logits; `validate_params` is all it is for."""

    teacher_size = 0

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise `ValueError` (HTTP 400) where a request names a size that does not exist."""
        extra_args = sampling_params.extra_args or {}
        if SIZE_KEY in extra_args and not is_size(extra_args[SIZE_KEY], cls.teacher_size):
            raise ValueError(
                f"{SIZE_KEY} must be an integer from 0 to {cls.teacher_size}, "
                f"got {extra_args[SIZE_KEY]!r}"
            )

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        """Nothing to keep; the signature is vLLM's."""

    def is_argmax_invariant(self) -> bool:
        """True: vLLM then skips `apply` for greedy requests."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Keeps no state per request."""

    def apply(self, logits: Any) -> Any:
        """The logits, unchanged."""
        return logits


@cache
def _admission_class(teacher_size: int) -> type[SizeAdmission]:
    members = {"teacher_size": teacher_size, "__module__": __name__}
    return type(f"{_PREFIX}{teacher_size}", (SizeAdmission,), members)


def admission_name(teacher_size: int) -> str:
    """The string that names the admission class of a ladder, for vLLM's `logits_processors`."""
    return f"{__name__}:{_PREFIX}{teacher_size}"


def __getattr__(name: str) -> type[SizeAdmission]:
    digits = name.removeprefix(_PREFIX)
    if not name.startswith(_PREFIX) or not digits.isdecimal():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _admission_class(int(digits))
