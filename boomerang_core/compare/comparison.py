"""Ladders of sizes measured on the same rows of text, as one JSON file; no torch.

    {"format": 1,
     "rows": {"teacher": …, "text": …, "sha256": …, "n": …, …},   what all series share
     "series": [{"name": …, "kind": …, "source": {…}, "provenance": {…},
                 "points": [{"layers": 17, "params": …, "kl": …, "top1": …, "perplexity": …,
                             "n": …}, …]}, …],
     "tasks": {…}}                                            as `task_scores` says; or absent

A series is as long as its ladder, smallest size first.  `source` is everything that decides its
numbers beside the rows, so that a finished series is known again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from boomerang_core.compare.task_scores import ComparedTasks, tasks_from_json
from boomerang_core.errors import FamilyError
from boomerang_core.files import save_json
from boomerang_core.sizes import Quality

FORMAT = 1
FAMILY = "family"
BASELINES = {"naive": "naive pruning", "shortgpt": "ShortGPT", "laco": "LaCo"}
"""Kinds of series that need no training, and what people call them."""


@dataclass(frozen=True)
class Point:
    """One size of a ladder: its depth, its parameters standing alone, its quality."""

    layers: int
    params: int
    quality: Quality

    def __post_init__(self) -> None:
        if self.layers < 1 or self.params < 1:
            raise ValueError("layers and params must be positive")
        if not all(math.isfinite(value) for value in (self.quality.kl, self.quality.perplexity)):
            raise ValueError(
                f"a KL of {self.quality.kl}, a perplexity of {self.quality.perplexity}"
            )


@dataclass(frozen=True)
class Series:
    """The ladder of one family, or of one baseline, smallest size first."""

    name: str
    kind: str
    source: Mapping[str, Any]
    points: tuple[Point, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in (FAMILY, *BASELINES):
            raise ValueError(f"a series of kind {self.kind!r}")
        depths = [point.layers for point in self.points]
        if not depths or depths != sorted(depths):
            raise ValueError(f"{self.name} has sizes of {depths} layers")

    def at(self, layers: int) -> Point | None:
        """The first size of that many layers."""
        return next((point for point in self.points if point.layers == layers), None)


@dataclass(frozen=True)
class Comparison:
    """Series that were measured on the same `rows`, and what they scored on tasks."""

    rows: Mapping[str, Any]
    series: tuple[Series, ...] = ()
    tasks: ComparedTasks | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rows["n"], int) or not {"teacher", "text"} <= self.rows.keys():
            raise ValueError("the rows must have a teacher, a text and n")
        names = [series.name for series in self.series]
        if len(set(names)) < len(names):
            raise ValueError(f"two series of one name in {names}")
        sizes = {(s.name, point.layers, point.params) for s in self.series for point in s.points}
        for row in self.tasks.rows if self.tasks else ():
            if (row.series, row.score.layers, row.score.params) not in sizes:
                raise ValueError(f"{row.series} has no {row.score.size} to have answered")

    def finished(self, name: str, kind: str, source: Mapping[str, Any]) -> bool:
        """Whether it holds that series, measured from the same source."""
        return any((s.name, s.kind, s.source) == (name, kind, source) for s in self.series)

    def with_series(self, series: Series) -> Comparison:
        """With one more series; one of the same name gives way, and what it scored on tasks."""
        others = tuple(each for each in self.series if each.name != series.name)
        tasks = self.tasks and self.tasks.without(series.name)
        return replace(self, series=(*others, series), tasks=tasks)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the file, atomically.  Raises `WriteError`."""
    series = [
        {
            "name": each.name,
            "kind": each.kind,
            "source": dict(each.source),
            "provenance": dict(each.provenance),
            "points": [
                {"layers": p.layers, "params": p.params, **asdict(p.quality)} for p in each.points
            ],
        }
        for each in comparison.series
    ]
    record = {"format": FORMAT, "rows": dict(comparison.rows), "series": series}
    if comparison.tasks is not None:
        record["tasks"] = comparison.tasks.to_json()
    save_json(record, path)


def read_comparison(path: Path) -> Comparison:
    """The inverse of `write_comparison`.  Raises `FamilyError` where it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, not {FORMAT}")
        tasks = tasks_from_json(record["tasks"]) if "tasks" in record else None
        return Comparison(dict(record["rows"]), tuple(map(_series, record["series"])), tasks)
    except OSError as error:
        raise FamilyError(f"cannot read the comparison {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FamilyError(f"{path} is no comparison, or malformed at {error!r}") from error


def _series(record: Mapping[str, Any]) -> Series:
    return Series(
        name=str(record["name"]),
        kind=str(record["kind"]),
        source=dict(record["source"]),
        points=tuple(map(_point, record["points"])),
        provenance=dict(record["provenance"]),
    )


def _point(row: Mapping[str, Any]) -> Point:
    quality = Quality(float(row["kl"]), float(row["top1"]), float(row["perplexity"]), int(row["n"]))
    return Point(int(row["layers"]), int(row["params"]), quality)
