"""How many parts a body may have, counted before pydantic looks at each of them.

A body within `max_body_bytes` may hold a hundred thousand messages; to validate them takes seconds,
in which nothing else is served, of a request that no context has room for.
"""

from collections.abc import Iterator
from typing import Any

_MOST_MESSAGES = 4096
_MOST_PARTS = 4096
"""Of all messages together: parts of their contents, tool calls, and whatever else is a list."""
_MOST_TOOLS = 1024
_MOST_STRUCTURES = 1024


def excess_of(body: Any) -> tuple[str, str] | None:
    """(message, field) where a body, which may be any JSON value, has too many of something."""
    if not isinstance(body, dict):
        return None
    for field, things, count, most in _counts(body):
        if count > most:
            return f"{count} {things} are too many; at most {most} are allowed", field
    return None


def _counts(body: dict[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    for field, things in (("messages", "messages"), ("input", "items")):
        messages = _list(body.get(field))
        yield field, things, len(messages), _MOST_MESSAGES
        parts = (
            len(_list(value)) for one in messages if isinstance(one, dict) for value in one.values()
        )
        yield field, f"parts of {things}", sum(parts), _MOST_PARTS
    yield "tools", "tools", len(_list(body.get("tools"))), _MOST_TOOLS
    if isinstance(form := body.get("response_format"), dict):
        count = len(_list(form.get("structures")))
        yield "response_format", "structures", count, _MOST_STRUCTURES


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
