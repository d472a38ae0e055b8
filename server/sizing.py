"""A request's fields → the size that runs, with the reason.  Pure: no torch, no vLLM, no HTTP.

A request may choose a size in one way: by the model's name (`family@106m`), by `size`, or by
`memory_budget`.  Two ways at once are refused even where they agree: which one is meant cannot
be told.  `min_size` and `max_size` bound what `size: "auto"` may choose, and nothing else; given
alone they ask for it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from boomerang_core.errors import (
    BudgetError,
    SizeError,
    UnavailableSizeError,
    UnknownSizeError,
)
from boomerang_core.family import Family
from boomerang_core.sizes import SizeRow, SizeTable, format_bytes, parse_bytes, shorten

AUTO = "auto"
SIZE_FIELDS = ("size", "memory_budget", "min_size", "max_size")
"""The request fields that are ours, on both completion endpoints."""
_BOUNDS = ("min_size", "max_size")


class Reason(StrEnum):
    """Why a size was chosen; the value of the header `x-boomerang-reason`."""

    MODEL = "model"
    SIZE = "size"
    MEMORY_BUDGET = "memory_budget"
    DEFAULT = "default"
    AUTO_LARGEST = "auto:largest"
    """The largest size that the request allows is predicted to be in time."""
    AUTO_OBJECTIVE = "auto:objective"
    """The largest allowed size that is; a larger one is predicted to be late."""
    AUTO_HELD = "auto:held"
    """A larger one would be in time by now; the choice rises once that has lasted."""
    AUTO_OVERLOAD = "auto:overload"
    """No allowed size is predicted to be in time: the smallest."""
    AUTO_UNMEASURED = "auto:unmeasured"
    """Too few steps were measured to predict anything: the largest."""

    @property
    def is_auto(self) -> bool:
        """Whether the size was the server's to choose."""
        return self.value.startswith(AUTO)


Choose = Callable[[tuple[SizeRow, ...]], tuple[SizeRow, Reason]]
"""Chooses by load among the sizes that a request allows, smallest first."""


@dataclass(frozen=True)
class Policy:
    """What a server offers: its sizes, the default one, and the KV tokens a footprint counts.

    Where `default_is_auto`, a request that chooses nothing gets what `size: "auto"` gets.
    """

    table: SizeTable
    default_size: int
    footprint_tokens: int
    default_is_auto: bool = False
    names: tuple[str, ...] = ()
    """Further names of the family; a size of it goes by NAME@SIZE too."""

    def __post_init__(self) -> None:
        assert self.table.rows[self.default_size] in self.table.offered
        assert self.footprint_tokens >= 0

    @classmethod
    def of(
        cls, family: Family, default: str | None = None, names: tuple[str, ...] = ()
    ) -> "Policy":
        """The policy that a family folder states, with another default size where one is given.

        `default` is a size or `auto`; raises `SizeError` for one that is not offered.  `names` are
        further ones of the family.
        """
        if default is None or default == AUTO:
            size = family.default_size
        else:
            row = family.table.target(default)
            if not row.offered:
                raise SizeError(f"the size {shorten(default)} is not offered")
            size = row.size
        return cls(family.table, size, family.footprint_tokens, default == AUTO, names)

    def own_name(self, model: object) -> object:
        """The model's name with the family's own where it states another one of it."""
        name, at, size = model.partition("@") if isinstance(model, str) else ("", "", "")
        return f"{self.table.family}{at}{size}" if name in self.names else model

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
    min_size: object = None
    max_size: object = None


@dataclass(frozen=True)
class Decision:
    """The size that runs a request, and why."""

    row: SizeRow
    reason: Reason


def decide(policy: Policy, ask: Ask, choose: Choose, tokens: int | None = None) -> Decision:
    """Choose the size of a request; `choose` is asked where the load decides.

    `tokens` is how many KV-cache tokens a memory budget must hold beside the weights; without
    it, the family's own number.  Raises `UnknownSizeError` for a model or size that is not
    there, `BudgetError` where nothing fits, `SizeError` for anything malformed or contradictory.
    """
    named = _row_of_model(policy.table, policy.own_name(ask.model))
    _refuse_conflict(named, ask)
    if named is not None:
        return Decision(named, Reason.MODEL)
    if ask.memory_budget is not None:
        budget = parse_bytes(ask.memory_budget)
        counted = policy.footprint_tokens if tokens is None else tokens
        return Decision(_row_within(policy.table, budget, counted), Reason.MEMORY_BUDGET)
    if _asks_auto(policy, ask):
        return Decision(*choose(_allowed(policy.table, ask)))
    if ask.size is not None:
        return Decision(_row_of_size(policy.table, ask.size), Reason.SIZE)
    return Decision(policy.table.rows[policy.default_size], Reason.DEFAULT)


def require_model(policy: Policy, model: object) -> None:
    """Raise `UnknownSizeError` or `SizeError` for a model name that is not this server's."""
    _row_of_model(policy.table, policy.own_name(model))


def _asks_auto(policy: Policy, ask: Ask) -> bool:
    """Whether the load decides: asked for, bounded, or the server's default."""
    if ask.size is not None:
        return _is_auto(ask.size)
    return policy.default_is_auto or bool(_given(ask, _BOUNDS))


def _is_auto(size: object) -> bool:
    return isinstance(size, str) and size.strip().lower() == AUTO


def _given(ask: Ask, fields: Iterable[str]) -> list[str]:
    return [field for field in fields if getattr(ask, field) is not None]


def _allowed(table: SizeTable, ask: Ask) -> tuple[SizeRow, ...]:
    """The offered sizes between the request's floor and ceiling, both included."""
    floor, ceiling = (
        None if value is None else _bound(table, value, field)
        for field, value in (("min_size", ask.min_size), ("max_size", ask.max_size))
    )
    within = [
        row
        for row in table.rows
        if (floor is None or row.params >= floor) and (ceiling is None or row.params <= ceiling)
    ]
    if rows := tuple(row for row in within if row in table.offered):
        return rows
    field = "max_size" if floor is None else "min_size"
    between = " and ".join(f"{name}={shorten(getattr(ask, name))}" for name in _given(ask, _BOUNDS))
    offered = ", ".join(row.id for row in table.offered)
    left_out = next((row for row in within if row.offered), None)
    if left_out is None:
        raise UnknownSizeError(f"no offered size is within {between}; offered: {offered}", field)
    raise UnavailableSizeError(
        f"no size within {between} is available: {left_out.id} is left out "
        f"({table.missing[left_out.size]}); offered: {offered}",
        field,
    )


def _bound(table: SizeTable, text: object, field: str) -> Fraction:
    """The parameters that a bound states."""
    try:
        return table.params_of(_without_family(table, text))
    except SizeError as error:
        raise SizeError(f"{field}: {error}", field) from error


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
    return table.target(_without_family(table, size))


def _without_family(table: SizeTable, size: object) -> object:
    return size.strip().removeprefix(f"{table.family}@") if isinstance(size, str) else size


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
    if named is not None and (given := _given(ask, SIZE_FIELDS)):
        raise SizeError(
            f"the model name {shorten(ask.model)} chooses a size already: leave {given[0]} out, "
            "or ask for the bare family",
            given[0],
        )
    if len(_given(ask, ("size", "memory_budget"))) > 1:
        raise SizeError("give either size or memory_budget, not both", "memory_budget")
    chosen = _given(ask, ("memory_budget",) if _is_auto(ask.size) else ("size", "memory_budget"))
    if chosen and (bounds := _given(ask, _BOUNDS)):
        raise SizeError(
            f"{chosen[0]} chooses a size already; {bounds[0]} bounds only 'auto'",
            bounds[0],
        )
