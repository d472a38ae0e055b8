"""The scores of a comparison's series on lm-eval's tasks, all over the same items; no torch.

    {"settings": {…}, "provenance": {…},
     "rows": [{"series": name, and the fields of a row of `tasks.json`}, …]}

Rows come task by task, series by series, smallest size first.  The last size of a series is the
teacher, which answered once for all.  `size` is a layer count, such as `17L`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from boomerang_core.evaluate.items import TaskRow

_TEXTS, _COUNTS = ("task", "size"), ("layers", "params", "n")


@dataclass(frozen=True)
class ComparedRow:
    """One size of a series on one task."""

    series: str
    score: TaskRow


@dataclass(frozen=True)
class TaskTable:
    """One figure of a task over its `n` items, in words: a row for each of the `depths`.

    A cell is that of the column's series, or empty where it has no size of so many layers.
    """

    title: str
    n: int
    names: Sequence[str]
    depths: Sequence[int]
    cells: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ComparedTasks:
    """What the series scored, how they were asked, and where the figures come from."""

    rows: tuple[ComparedRow, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("tasks without rows")

    @property
    def names(self) -> list[str]:
        """The tasks, in the order of the rows."""
        return list(dict.fromkeys(row.score.task for row in self.rows))

    def of(self, task: str, series: Sequence[str]) -> dict[str, list[TaskRow]]:
        """On a task, the sizes of each of the series that answered it, smallest first."""
        found: dict[str, list[TaskRow]] = {name: [] for name in series}
        for row in self.rows:
            if row.score.task == task and row.series in found:
                found[row.series].append(row.score)
        return {name: sizes for name, sizes in found.items() if sizes}

    def tables(self, series: Sequence[str]) -> list[TaskTable]:
        """A table for each task, whose columns are the series in this order."""
        found = ((task, self.of(task, series)) for task in self.names)
        return [_table(task, sizes) for task, sizes in found if sizes]

    def without(self, series: str) -> ComparedTasks | None:
        """The other series; None where there is no other."""
        rows = tuple(row for row in self.rows if row.series != series)
        return replace(self, rows=rows) if rows else None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the comparison's file."""
        return {
            "settings": dict(self.settings),
            "provenance": dict(self.provenance),
            "rows": [{"series": row.series, **asdict(row.score)} for row in self.rows],
        }


def _table(task: str, found: Mapping[str, Sequence[TaskRow]]) -> TaskTable:
    """Accuracies with their errors; perplexities a word where the task is plain text."""
    scores = [score for sizes in found.values() for score in sizes]
    read = all(score.accuracy is None for score in scores)
    figure = "perplexity a word" if read else "accuracy ± standard error"
    depths = sorted({score.layers for score in scores})
    cells = [[_cell(sizes, depth) for sizes in found.values()] for depth in depths]
    return TaskTable(f"{task}: {figure}", scores[0].n, list(found), depths, cells)


def _cell(sizes: Sequence[TaskRow], depth: int) -> str:
    """The first size of that many layers."""
    score = next((score for score in sizes if score.layers == depth), None)
    if score is None:
        return ""
    if score.accuracy is None:
        return "" if score.perplexity is None else f"{score.perplexity:,.1f}"
    return str(score.mean_accuracy)


def tasks_from_json(record: Mapping[str, Any]) -> ComparedTasks:
    """The inverse of `to_json`.  Raises ValueError, KeyError or TypeError where it is malformed."""
    rows = tuple(ComparedRow(str(row["series"]), _score(row)) for row in record["rows"])
    return ComparedTasks(rows, dict(record["settings"]), dict(record["provenance"]))


def _score(row: Mapping[str, Any]) -> TaskRow:
    values: dict[str, Any] = {name: str(row[name]) for name in _TEXTS}
    values |= {name: int(row[name]) for name in _COUNTS}
    values["metrics"] = {str(name): float(value) for name, value in dict(row["metrics"]).items()}
    for each in fields(TaskRow):
        if each.name not in values:
            values[each.name] = _figure(each.name, row[each.name])
    if values["n"] < 1:
        raise ValueError(f"{values['n']} items")
    return TaskRow(**values)


def _figure(name: str, value: Any) -> float | None:
    figure = None if value is None else float(value)
    if figure is not None and not math.isfinite(figure):
        raise ValueError(f"{name} of {figure}")
    return figure
