"""Fields of a request that look like one of ours and are not.  Pure, as `sizing.py`."""

from collections.abc import Iterable

from boomerang_core.errors import SizeError
from boomerang_core.sizes import shorten

MOST_UNKNOWN = 64
"""Fields of one request that are neither vLLM's nor ours."""
_ALIASES = {
    "budget": "memory_budget",
    "maxmemory": "memory_budget",
    "membudget": "memory_budget",
    "memory": "memory_budget",
    "memorylimit": "memory_budget",
    "rambudget": "memory_budget",
    "vrambudget": "memory_budget",
    "boomerangsize": "size",
    "ceiling": "max_size",
    "floor": "min_size",
    "largestsize": "max_size",
    "maximumsize": "max_size",
    "minimumsize": "min_size",
    "modelsize": "size",
    "sizemax": "max_size",
    "sizemin": "min_size",
    "smallestsize": "min_size",
    "targetsize": "size",
}
_TYPOS = {"size": 1, "min_size": 1, "max_size": 1, "memory_budget": 3}
"""How many edits away a field is still recognised."""
_SUFFIXES = ("bytes", "mb", "mib", "gb", "gib")


def refuse_misspelt(names: Iterable[str]) -> None:
    """Raise `SizeError` for a field that looks like one of ours and is not.

    An unknown field would be ignored, as OpenAI clients expect; ignoring a misspelt budget would
    run the default size without a word.  Many unknown fields are refused uncompared: the
    comparison takes time, in which nothing else is served.
    """
    names = list(names)
    if len(names) > MOST_UNKNOWN:
        raise SizeError(f"{len(names)} unknown fields; a request has {MOST_UNKNOWN} at most", None)
    for name in names:
        if meant := _meant(name):
            raise SizeError(f"unknown field {shorten(name)}; did you mean {meant!r}?", name[:64])


def _meant(name: str) -> str | None:
    """Our field that a misspelt one stands for, or None."""
    plain = "".join(char for char in name.lower() if char.isalnum())
    stem = next((plain.removesuffix(end) for end in _SUFFIXES if plain.endswith(end)), plain)
    for candidate in dict.fromkeys((plain, stem)):
        if candidate in _ALIASES:
            return _ALIASES[candidate]
        for field, limit in _TYPOS.items():
            if _edits(candidate, field.replace("_", ""), limit) <= limit:
                return field
    return None


def _edits(left: str, right: str, limit: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).

    Gives `limit + 1` early where the lengths already differ by more.
    """
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, char in enumerate(left, 1):
        last, before, row = before, row, [i]
        for j, other in enumerate(right, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == right[j - 2] and left[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
