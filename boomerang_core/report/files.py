"""What a report may show beside the family's own table, read and checked; no torch.

    comparison.json  ladders on the same rows, as `boomerang compare` writes them
    tasks.json       rows as `evaluate.tasks` says
    similarity.json  as `evaluate.similarity` says
    curves.json      [{"name": …, "points": [{"seconds": …, "tokens": …, "kl": …}, …]}, …]
    speed.json       {"load": "one request, 128 tokens", "tokens_per_second": {size id: …}}

Each may have a "provenance" (a curve its own).  Tasks and similarity have the "source" that they
were measured on, as `comparison.family_source` says.  Every reader raises `FamilyError`, naming the
file and what is wrong in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boomerang_core.errors import FamilyError
from boomerang_core.evaluate.pairs import Estimate
from boomerang_core.family import Family


@dataclass(frozen=True)
class Similarity:
    """Mean cosines with the teacher over `n` tokens.

    `cosine[size][block]`, the smallest size first, at each block's end; `student[block][layer]`,
    the student's state at a block's end with the teacher's after any layer.
    """

    sizes: Sequence[str]
    blocks: Sequence[Sequence[int]]
    cosine: Sequence[Sequence[float]]
    student: Sequence[Sequence[float]]
    n: int
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.sizes or not self.blocks or not all(self.blocks):
            raise ValueError("there must be sizes, and blocks with layers")
        layers = sum(len(block) for block in self.blocks)
        _check_table("cosine", self.cosine, len(self.sizes), len(self.blocks))
        _check_table("student", self.student, len(self.blocks), layers)


def _check_table(
    name: str, table: Sequence[Sequence[float]], num_rows: int, num_columns: int
) -> None:
    if [len(row) for row in table] != [num_columns] * num_rows:
        raise ValueError(f"{name} must be {num_rows} rows of {num_columns}")
    if not all(-1.001 <= value <= 1.001 for row in table for value in row):
        raise ValueError(f"{name} holds what is no cosine")


@dataclass(frozen=True)
class Score:
    """How one size does on one task; None where the task has no such figure."""

    task: str
    size: str
    params: int
    n: int
    accuracy: Estimate | None
    log_likelihood: Estimate | None
    perplexity: float | None
    tokens_per_answer: Estimate | None


@dataclass(frozen=True)
class Tasks:
    """The scores of a family's sizes, task by task, smallest size first."""

    rows: Sequence[Score]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """The tasks, in the order of the rows."""
        return list(dict.fromkeys(row.task for row in self.rows))


@dataclass(frozen=True)
class Moment:
    """The student after some seconds and tokens of distillation; KL in nats a token."""

    seconds: float
    tokens: int
    kl: float


@dataclass(frozen=True)
class Curve:
    """How the student's KL falls in one run."""

    name: str
    points: Sequence[Moment]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        seconds = [point.seconds for point in self.points]
        if not seconds or seconds != sorted(seconds) or seconds[0] <= 0:
            raise ValueError(f"the seconds of {self.name} must be above 0 and rise")
        if not all(math.isfinite(point.kl) for point in self.points):
            raise ValueError(f"a KL of {self.name} is no number")


@dataclass(frozen=True)
class Speed:
    """Measured tokens per second by size id, under a load told in words."""

    load: str
    tokens_per_second: Mapping[str, float]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.tokens_per_second or min(self.tokens_per_second.values()) <= 0:
            raise ValueError("tokens per second must be above 0")


def read_tasks(path: Path, family: Family, source: Mapping[str, Any]) -> Tasks:
    """The scores of this family's sizes; `source` is the family's."""
    params = {row.id: row.params for row in family.rows}
    with _named(path) as record:
        _require_source(record, source, path)
        rows = [_score(row) for row in record["rows"]]
        if not rows:
            raise ValueError("no rows")
        for row in rows:
            if params.get(row.size) != row.params:
                raise ValueError(f"{family.name} has no {row.size} of {row.params:,} parameters")
        return Tasks(rows, dict(record["settings"]), dict(record["provenance"]))


def _score(row: Mapping[str, Any]) -> Score:
    n, perplexity = int(row["n"]), row["perplexity"]

    def estimate(name: str, error: str) -> Estimate | None:
        mean, se = row[name], row[error]
        return None if mean is None else Estimate(float(mean), None if se is None else float(se), n)

    return Score(
        task=str(row["task"]),
        size=str(row["size"]),
        params=int(row["params"]),
        n=n,
        accuracy=estimate("accuracy", "se"),
        log_likelihood=estimate("log_likelihood", "log_likelihood_se"),
        perplexity=None if perplexity is None else float(perplexity),
        tokens_per_answer=estimate("tokens_per_answer", "tokens_per_answer_se"),
    )


def read_similarity(path: Path, source: Mapping[str, Any]) -> Similarity:
    """The cosines of every size and block; `source` is the family's."""
    with _named(path) as record:
        _require_source(record, source, path)
        return Similarity(
            sizes=[str(size) for size in record["sizes"]],
            blocks=[[int(layer) for layer in block] for block in record["blocks"]],
            cosine=_table(record["cosine"]),
            student=_table(record["student"]),
            n=int(record["n"]),
            provenance=dict(record["provenance"]),
        )


def _require_source(record: Any, source: Mapping[str, Any], path: Path) -> None:
    """Sizes of another student, or of another ladder, may go by the same names."""
    if record.get("source") != source:
        raise FamilyError(f"{path} does not measure {source['family']} as it is now: do it again")


def _table(rows: Any) -> list[list[float]]:
    return [[float(value) for value in row] for row in rows]


def read_curves(path: Path) -> list[Curve]:
    """One curve a run."""
    with _named(path) as record:
        if not record:
            raise ValueError("no curve")
        return [_curve(row) for row in record]


def _curve(row: Mapping[str, Any]) -> Curve:
    points = [
        Moment(float(point["seconds"]), int(point["tokens"]), float(point["kl"]))
        for point in row["points"]
    ]
    return Curve(str(row["name"]), points, row.get("provenance") or {})


def read_speed(path: Path, family: Family) -> Speed:
    """The speed of some of this family's sizes."""
    with _named(path) as record:
        rates = {str(size): float(rate) for size, rate in record["tokens_per_second"].items()}
        if unknown := sorted(rates.keys() - {row.id for row in family.rows}):
            raise ValueError(f"there is no size {unknown[0]}")
        return Speed(str(record["load"]), rates, record.get("provenance") or {})


@contextmanager
def _named(path: Path) -> Iterator[Any]:
    """The file's JSON; what is wrong with it is an error that names it."""
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FamilyError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FamilyError(f"{path} is malformed at {error!r}") from error
