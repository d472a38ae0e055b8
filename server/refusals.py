"""Why requests are refused: the labels of `boomerang_refusals_total`, each there from the start."""

from enum import StrEnum

from boomerang_core.errors import BudgetError, SizeError, UnavailableSizeError, UnknownSizeError


class Refusal(StrEnum):
    """A reason; docs/operations.md says of each what to do."""

    BUDGET = "budget"
    UNAVAILABLE = "unavailable"
    UNKNOWN_SIZE = "unknown_size"
    MALFORMED = "malformed"
    QUEUE_FULL = "queue_full"
    TOO_MANY = "too_many"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    UNAUTHORIZED = "unauthorized"
    STALLED = "stalled"


def refusal_of(error: SizeError) -> Refusal:
    """The label of a request whose size cannot be met."""
    if isinstance(error, BudgetError):
        return Refusal.BUDGET
    if isinstance(error, UnavailableSizeError):
        return Refusal.UNAVAILABLE
    return Refusal.UNKNOWN_SIZE if isinstance(error, UnknownSizeError) else Refusal.MALFORMED
