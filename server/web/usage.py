"""What the engine did for a request, on its way from the engine's front end to the log."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Usage:
    """What the engine did for one HTTP request, over all its prompts and choices."""

    auto: bool = False
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token_seconds: float | None = None
    token_seconds: float | None = None


usage: ContextVar[Usage | None] = ContextVar("usage", default=None)
"""Of the request that the current task serves; tasks that it starts inherit it."""
