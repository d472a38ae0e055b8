"""A request's fields → the size that runs, with the reason.  Pure: no torch, no vLLM, no HTTP.

A request may choose a size in one way: by the model's name (`family@106m`), by `size`, or by
`memory_budget`.  Two ways at once are refused even where they agree: which one is meant cannot
be told.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from boomerang_core.errors import BudgetError, SizeError, UnknownSizeError
from boomerang_core.family import Family
from boomerang_core.sizes import SizeRow, SizeTable, format_bytes, parse_bytes, shorten

SIZE_FIELDS = ("size", "memory_budget")
"""The request fields that are ours, on both completion endpoints."""

_ALIASES = {
    "budget": "memory_budget",
    "maxmemory": "memory_budget",
    "membudget": "memory_budget",
    "memory": "memory_budget",
    "memorylimit": "memory_budget",
    "rambudget": "memory_budget",
    "vrambudget": "memory_budget",
    "boomerangsize": "size",
    "maxsize": "size",
    "minsize": "size",
    "modelsize": "size",
    "targetsize": "size",
}
_TYPOS = {"size": 1, "memory_budget": 3}  # how many edits away a field is still recognised
_SUFFIXES = ("bytes", "mb", "mib", "gb", "gib")


class Reason(StrEnum):
    """Why a size was chosen; the value of the header `x-boomerang-reason`."""

    MODEL = "model"
    SIZE = "size"
    MEMORY_BUDGET = "memory_budget"
    DEFAULT = "default"


@dataclass(frozen=True)
class Policy:
    """What a server offers: its sizes, the default one, and the KV tokens a footprint counts."""

    table: SizeTable
    default_size: int
    footprint_tokens: int

    def __post_init__(self) -> None:
        assert self.table.rows[self.default_size] in self.table.offered
        assert self.footprint_tokens >= 0

    @classmethod
    def of(cls, family: Family) -> "Policy":
        """The policy that a family folder states."""
        return cls(family.table, family.default_size, family.footprint_tokens)

    def without(self, missing: Mapping[int, str]) -> "Policy":
        """The policy where those sizes cannot run, with the reasons; the default moves down."""
        table = replace(self.table, missing=missing)
        below = [row.size for row in table.offered if row.size <= self.default_size]
        return replace(self, table=table, default_size=(below or [table.offered[0].size])[-1])


@dataclass(frozen=True)
class Ask:
    """The size fields of a request, as they came: any JSON value."""

    model: object = None
    size: object = None
    memory_budget: object = None


@dataclass(frozen=True)
class Decision:
    """The size that runs a request, and why."""

    row: SizeRow
    reason: Reason


def decide(policy: Policy, ask: Ask, tokens: int | None = None) -> Decision:
    """Choose the size of a request.

    `tokens` is how many KV-cache tokens a memory budget must hold beside the weights; without
    it, the family's own number.  Raises `UnknownSizeError` for a model or size that is not
    there, `BudgetError` where nothing fits, `SizeError` for anything malformed or contradictory.
    """
    named = _row_of_model(policy.table, ask.model)
    _refuse_conflict(named, ask)
    if named is not None:
        return Decision(named, Reason.MODEL)
    if ask.size is not None:
        return Decision(_row_of_size(policy.table, ask.size), Reason.SIZE)
    if ask.memory_budget is not None:
        budget = parse_bytes(ask.memory_budget)
        counted = policy.footprint_tokens if tokens is None else tokens
        return Decision(_row_within(policy.table, budget, counted), Reason.MEMORY_BUDGET)
    return Decision(policy.table.rows[policy.default_size], Reason.DEFAULT)


def _row_of_model(table: SizeTable, model: object) -> SizeRow | None:
    """The size that a model name states; None for the bare family."""
    if model is None or model == table.family:
        return None
    if not isinstance(model, str):
        raise SizeError(f"model must be a name, got {shorten(model)}", "model")
    family, at, size = model.partition("@")
    if family != table.family or not at:
        raise UnknownSizeError(
            f"the model {shorten(model)} does not exist; there is {table.family!r}, with sizes "
            + ", ".join(table.model_id(row) for row in table.offered),
            "model",
        )
    try:
        return table.named(size)
    except UnknownSizeError as error:
        raise type(error)(str(error), "model") from error


def _row_of_size(table: SizeTable, size: object) -> SizeRow:
    """The size that the field `size` asks for; a model name is understood too."""
    if isinstance(size, str):
        size = size.strip().removeprefix(f"{table.family}@")
    return table.target(size)


def _row_within(table: SizeTable, budget: int, tokens: int) -> SizeRow:
    """The largest offered size that fits; the error says what the smallest one needs."""
    try:
        return table.within(budget, tokens)
    except BudgetError as error:
        smallest = table.offered[0]
        fits = format_bytes(smallest.footprint_bytes(tokens))
        hint = f"; memory_budget={fits!r} would run {table.model_id(smallest)}"
        raise BudgetError(f"{error}{hint}", error.param) from error


def _refuse_conflict(named: SizeRow | None, ask: Ask) -> None:
    given = [field for field in SIZE_FIELDS if getattr(ask, field) is not None]
    if named is not None and given:
        raise SizeError(
            f"the model name {shorten(ask.model)} chooses a size already: leave {given[0]} out, "
            "or ask for the bare family",
            given[0],
        )
    if len(given) > 1:
        raise SizeError("give either size or memory_budget, not both", "memory_budget")


def refuse_misspelt(names: Iterable[str]) -> None:
    """Raise `SizeError` for a field that looks like one of ours and is not.

    An unknown field would be ignored, as OpenAI clients expect; ignoring a misspelt budget would
    run the default size without a word.
    """
    for name in names:
        if meant := _meant(name):
            raise SizeError(f"unknown field {shorten(name)}; did you mean {meant!r}?", name[:64])


def _meant(name: str) -> str | None:
    """Our field that a misspelt one stands for, or None."""
    plain = "".join(char for char in name.lower() if char.isalnum())
    stem = next((plain.removesuffix(end) for end in _SUFFIXES if plain.endswith(end)), plain)
    for candidate in (plain, stem):
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
