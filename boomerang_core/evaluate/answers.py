"""What a size answered on the items of a task, kept in a file of its own; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boomerang_core.errors import DataError
from boomerang_core.evaluate.items import Item
from boomerang_core.finished import read_finished, write_finished


def read_answers(path: Path, settings: Mapping[str, Any]) -> list[Item] | None:
    """The items in the file; None where there is none, or one of other settings.

    Raises `DataError` for a file that is something else.
    """
    found = read_finished(path, settings)
    try:
        return None if found is None else [Item(**record) for record in found]
    except TypeError as error:
        raise DataError(f"{path} holds no answers; delete it: {error}") from error


def write_answers(path: Path, settings: Mapping[str, Any], items: Sequence[Item]) -> None:
    """Write the file, atomically; answers of other settings give way.  Raises `WriteError`."""
    write_finished(path, settings, [asdict(item) for item in items])
