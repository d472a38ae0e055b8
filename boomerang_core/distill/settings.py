"""Settings out of JSON: frozen records from their fields, each checked by its name and type."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from boomerang_core.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T", bound="DataclassInstance")
_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}


def read_settings(path: Path) -> dict[str, Any]:
    """What a recipe file sets; one that is no whole recipe is a start for options on top.

    One without `document_ends` is from before there were any, and stays what it was: without.
    Raises SettingsError.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read a recipe from {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"cannot read a recipe from {path}: {error}") from error
    settings = dict(as_object(values, "a recipe"))
    settings.setdefault("document_ends", False)
    return settings


def as_object(value: Any, name: str) -> Mapping[str, Any]:
    """The value, which must be a JSON object.  Raises SettingsError."""
    if not isinstance(value, Mapping):
        raise SettingsError(f"{name} must be an object of settings, got {value!r}")
    return value


def build(cls: type[_T], values: Mapping[str, Any]) -> _T:
    """A record from its fields by name.  Raises SettingsError."""
    types = get_type_hints(cls)
    if unknown := sorted(set(values) - types.keys()):
        raise SettingsError(f"a recipe has no setting {unknown[0]!r}{_hint(unknown[0], cls)}")
    for name, value in values.items():
        if not _fits(value, types[name]):
            raise SettingsError(f"{name} must be {_in_words(types[name])}, got {value!r}")
    try:
        return cls(**values)
    except TypeError as error:
        raise SettingsError(f"the recipe is malformed: {error}") from error


def _hint(name: str, cls: type) -> str:
    """The setting that was meant, by its full name, if one is spelt much like it."""
    paths = {path.rpartition(".")[2]: path for path in _paths(cls)}
    close = get_close_matches(name.replace("-", "_"), paths, 1)
    return f"; did you mean {paths[close[0]]!r}?" if close else ""


def _paths(cls: type, before: str = "") -> Iterator[str]:
    """The settings of a record by their full names, its own last."""
    types = get_type_hints(cls)
    for name, kind in types.items():
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _paths(kind, f"{before}{name}.")
    yield from (f"{before}{name}" for name in types)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a number, true and false are none.

    Nor are NaN and infinity, which Python reads from JSON.
    """
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(each, item) for each in value)
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each {_in_words(get_args(kind)[0])}"
    if isinstance(kind, UnionType):
        return " or ".join(map(_in_words, get_args(kind)))
    return _WORDS.get(kind, "an object of settings")
