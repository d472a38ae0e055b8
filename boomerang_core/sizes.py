"""Sizes: their names, the grammar in which a request asks for one, and budget → size."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from boomerang_core.errors import (
    BudgetError,
    SizeError,
    UnavailableSizeError,
    UnknownSizeError,
)
from boomerang_core.footprint import footprint_bytes

_UNITS = {"": 1, "b": 1} | {
    letter + unit: base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("i", 1024), ("ib", 1024))
}
"""Bytes in a unit: `kb`, `ki` and `kib`, up to `tib`."""
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([a-z]{0,3})", re.ASCII)
_PARAMS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([mb])", re.ASCII)
_LAYERS = re.compile(r"([0-9]{1,5})l", re.ASCII)
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", re.ASCII)
_FRACTION = re.compile(r"(?:0?\.[0-9]{1,6}|[01]\.[0-9]{1,6})", re.ASCII)
GRAMMAR = "'106m', '1.9b', '24L', '0.75', '75%', 'student' or 'teacher'"
_DIGITS = 3
FAMILY_NAME = "one word without '/' and '@'"
"""What a family may be called, in words."""


def is_family_name(name: str) -> bool:
    """Whether a server can name sizes after it, `NAME@106m`, and a path can end with it."""
    plain = name.isprintable() and not any(c in "@/\\" or c.isspace() for c in name)
    return plain and name not in ("", ".", "..")


def parse_bytes(text: object, param: str = "memory_budget") -> int:
    """Bytes of `300MiB`, `1.5 GB`, `2Gi` or a plain number of bytes.

    Raises `SizeError` for anything else, zero and negative amounts included.
    """
    if isinstance(text, float) and text.is_integer():  # what some clients make of a whole number
        text = int(text)
    is_amount = isinstance(text, str | int) and not isinstance(text, bool)
    match = _BYTES.fullmatch(str(text).strip().lower()) if is_amount else None
    if match is None or match[2] not in _UNITS:
        raise SizeError(
            f"{param} must be a size such as '300MiB' or a number of bytes, got {shorten(text)}",
            param,
        )
    amount = int(Fraction(match[1]) * _UNITS[match[2]])
    if amount <= 0:
        raise SizeError(f"{param} must be more than zero bytes, got {shorten(text)}", param)
    return amount


def format_bytes(amount: int) -> str:
    """Bytes for people, rounded up to a tenth: `254.6MiB`.  Parses back to at least `amount`."""
    unit, scale = ("GiB", 2**30) if amount >= 2**30 else ("MiB", 2**20)
    tenths = -(-amount * 10 // scale)
    return f"{tenths // 10}.{tenths % 10}{unit}"


def format_params(params: int, digits: int = 0) -> str:
    """Parameters for names: 106_000_000 → `106m`, 1_900_000_000 → `1.9b`.

    `digits` adds decimal places, for families whose neighbouring sizes would share a name.
    """
    if params >= 995_000_000:
        return f"{params / 1e9:.{digits + 1}f}b"
    if params >= 1_000_000:
        return f"{params / 1e6:.{digits}f}m"
    return f"{params / 1e6:.{digits + _DIGITS}f}m"


def unique_ids(params: Sequence[int]) -> tuple[str, ...]:
    """The shortest parameter names that tell every size of a ladder apart."""
    for digits in range(7):
        names = tuple(format_params(count, digits) for count in params)
        if len(set(names)) == len(names):
            return names
    raise SizeError("two sizes of the ladder have the same number of parameters")


def shorten(value: object, limit: int = 40) -> str:
    """A value from outside, quoted and cut, so that a message stays one line."""
    text = repr(value)
    quote = text[-1] if isinstance(value, str) else ""
    return text if len(text) <= limit else f"{text[:limit]}…{quote}"


@dataclass(frozen=True)
class Quality:
    """Measured on held-out text: KL(teacher‖size) in nats a token, top-1 agreement with the
    teacher, perplexity; `n` is the number of scored tokens."""

    kl: float
    top1: float
    perplexity: float
    n: int


@dataclass(frozen=True)
class SizeRow:
    """One size: `size` is its place on the ladder, `id` its name (`106m`).

    `weight_bytes` and `kv_bytes_per_token` are those of the size standing alone.
    """

    size: int
    id: str
    layers: int
    params: int
    weight_bytes: int
    kv_bytes_per_token: int
    offered: bool
    quality: Quality | None = None

    def footprint_bytes(self, tokens: int) -> int:
        """Standalone bytes with the KV cache of `tokens` tokens."""
        return footprint_bytes(self.weight_bytes, self.kv_bytes_per_token, tokens)


@dataclass(frozen=True)
class SizeTable:
    """The sizes of a family, smallest first.

    `missing`: of a size that this server cannot run, the reason.
    """

    family: str
    rows: tuple[SizeRow, ...]
    missing: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert [row.size for row in self.rows] == list(range(len(self.rows))), "sizes count from 0"
        assert len({row.id for row in self.rows}) == len(self.rows), "two sizes have one id"
        assert self.teacher.offered, "the teacher is always offered"
        assert self.offered, "some size can be run"

    @property
    def student(self) -> SizeRow:
        """Size 0."""
        return self.rows[0]

    @property
    def teacher(self) -> SizeRow:
        """The largest size."""
        return self.rows[-1]

    @property
    def offered(self) -> tuple[SizeRow, ...]:
        """The sizes that are offered by name, smallest first."""
        return tuple(row for row in self.rows if row.offered and row.size not in self.missing)

    def model_id(self, row: SizeRow) -> str:
        """The model name of a size: `smollm2-135m@106m`."""
        return f"{self.family}@{row.id}"

    def named(self, name: str) -> SizeRow:
        """The size of exactly that name: an id, `student`, `teacher` or a layer count `24L`.

        A layer count reaches sizes that are not offered too.  Raises `UnknownSizeError`.
        """
        text = name.strip().lower()
        if text in ("student", "teacher"):
            row = self.student if text == "student" else self.teacher
            return self._require_offered(row, name)
        if match := _LAYERS.fullmatch(text):
            return self._by_layers(int(match[1]))
        for row in self.rows:
            if row.id == text and row.offered:
                return self._require_held(row)
        raise UnknownSizeError(f"there is no size {shorten(name)}; {self._choices()}", "model")

    def target(self, text: object) -> SizeRow:
        """The size that a request asks for, in the grammar of `GRAMMAR`.

        Names, `student`, `teacher` and layer counts are exact.  Parameters and fractions of the
        teacher are upper bounds: the largest offered size not above.  Raises `SizeError`.
        """
        wanted = _wanted(text)
        if isinstance(wanted, str):
            exact = wanted in ("student", "teacher") or _LAYERS.fullmatch(wanted)
            if exact or wanted in {row.id for row in self.rows if row.offered}:
                return self.named(wanted)
        limit = self._params_limit(wanted, text)
        row = _largest(self.offered, lambda row: row.params <= limit)
        if row is None:
            smallest = self.offered[0]
            raise UnknownSizeError(
                f"no offered size is as small as {shorten(text)}; the smallest is {smallest.id} "
                f"({smallest.params:,} parameters)",
                "size",
            )
        return row

    def params_of(self, text: object) -> Fraction:
        """The parameters that a size in the grammar of `GRAMMAR` states, offered or not.

        A name states those of its size, a layer count too; a share, that of the teacher's.
        Raises `SizeError`.
        """
        wanted = _wanted(text)
        if wanted in ("student", "teacher"):
            row = self.student if wanted == "student" else self.teacher
            return Fraction(row.params)
        if isinstance(wanted, str) and (match := _LAYERS.fullmatch(wanted)):
            return Fraction(self._by_layers(int(match[1])).params)
        for row in self.rows:
            if row.id == wanted:
                return Fraction(row.params)
        return self._params_limit(wanted, text)

    def within(self, budget_bytes: int, tokens: int, param: str = "memory_budget") -> SizeRow:
        """The largest offered size whose standalone footprint fits.

        `tokens` is how many tokens of KV cache the footprint counts.  Raises `BudgetError`, which
        names the smallest footprint.
        """
        row = _largest(self.offered, lambda row: row.footprint_bytes(tokens) <= budget_bytes)
        if row is None:
            smallest = self.offered[0]
            need = smallest.footprint_bytes(tokens)
            raise BudgetError(
                f"{param} of {budget_bytes:,} bytes fits no size: the smallest, {smallest.id}, "
                f"needs {need:,} bytes ({format_bytes(need)}) with {tokens} tokens of KV cache",
                param,
            )
        return row

    def _params_limit(self, wanted: str | Fraction, text: object) -> Fraction:
        if isinstance(wanted, Fraction):
            share = wanted
        elif match := _PARAMS.fullmatch(wanted):
            scale = 10**6 if match[2] == "m" else 10**9
            return Fraction(match[1]) * scale
        elif match := _PERCENT.fullmatch(wanted):
            share = Fraction(match[1]) / 100
        elif _FRACTION.fullmatch(wanted):
            share = Fraction(wanted)
        else:
            raise _no_size(text)
        if not 0 < share <= 1:
            got = f"got {shorten(text)}; parameters are text such as '106m'"
            raise SizeError(f"a share of the teacher is above 0 and at most 1, {got}", "size")
        return share * self.teacher.params

    def _by_layers(self, layers: int) -> SizeRow:
        for row in self.rows:
            if row.layers == layers:
                return self._require_held(row)
        counts = ", ".join(f"{row.layers}L" for row in self.rows)
        raise UnknownSizeError(f"no size has {layers} layers; there are {counts}", "size")

    def _require_offered(self, row: SizeRow, name: str) -> SizeRow:
        if not row.offered:
            raise UnknownSizeError(f"size {name!r} is not offered; {self._choices()}", "size")
        return self._require_held(row)

    def _require_held(self, row: SizeRow) -> SizeRow:
        if row.size in self.missing:
            raise UnavailableSizeError(
                f"size {row.id} is not available: {self.missing[row.size]}; {self._choices()}",
                "size",
            )
        return row

    def _choices(self) -> str:
        return "offered: " + ", ".join(row.id for row in self.offered)


def _wanted(size: object) -> str | Fraction:
    """A size as text to compare, or as the share that a JSON number is, in its shortest form."""
    if isinstance(size, str):
        return size.strip().lower()
    whole = isinstance(size, int) and not isinstance(size, bool)
    if whole or (isinstance(size, float) and math.isfinite(size)):
        return Fraction(repr(size))
    raise _no_size(size)


def _no_size(given: object) -> SizeError:
    return SizeError(f"size must be one of {GRAMMAR}, got {shorten(given)}", "size")


def _largest(rows: Iterable[SizeRow], fits: Callable[[SizeRow], bool]) -> SizeRow | None:
    return max((row for row in rows if fits(row)), key=lambda row: row.size, default=None)
