"""What a family folder says about its own quality, read and checked; no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from boomerang_core.compare.comparison import (
    BASELINES,
    FAMILY,
    Comparison,
    Point,
    Series,
    read_comparison,
)
from boomerang_core.contents import SIMILARITY, TASKS, TRAINING
from boomerang_core.errors import FamilyError
from boomerang_core.family import Family, family_source, naive_quality
from boomerang_core.footprint import footprint_bytes, kv_bytes_per_token, teacher_params
from boomerang_core.report.files import (
    Curve,
    Similarity,
    Speed,
    Tasks,
    read_curves,
    read_similarity,
    read_speed,
    read_tasks,
)
from boomerang_core.sizes import Quality

_T = TypeVar("_T")


@dataclass(frozen=True)
class Step:
    """What training logged: tokens seen so far, KL in nats a token of the student or sizes between.

    Of one step, or the mean of those since the last.
    """

    tokens: int
    student: bool
    kl: float


@dataclass(frozen=True)
class GivenFiles:
    """Files of the user's to show; tasks and similarity in place of those in the family folder."""

    comparison: Path | None = None
    curves: Path | None = None
    tasks: Path | None = None
    similarity: Path | None = None
    speed: Path | None = None


@dataclass(frozen=True)
class Findings:
    """A measured family: the quality of every size, and what else there is about it."""

    family: Family
    quality: Sequence[Quality]
    naive: Sequence[Quality] | None = None
    training: Sequence[Step] = ()
    comparison: Comparison | None = None
    curves: Sequence[Curve] = ()
    tasks: Tasks | None = None
    similarity: Similarity | None = None
    speed: Speed | None = None

    @property
    def measured(self) -> dict[str, Any]:
        """How the sizes were measured: command, date, hardware, text, as far as it was noted.

        A family that was measured while it was made has these in the note of its making.
        """
        made = {key: self.family.provenance.get(key) for key in ("command", "date", "hardware")}
        noted = self.family.provenance.get("evaluation") or {}
        text = noted.get("text") or "a text that was not noted"
        return {**made, **noted, "text": text, "n": self.quality[0].n}

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """Ladders that were measured on the same rows, this family's first.

        Those of the comparison; without one, the family and naive pruning.
        """
        if self.comparison is not None:
            return self.comparison.series
        rows = self.family.rows
        ours = [Point(r.layers, r.params, q) for r, q in zip(rows, self.quality, strict=True)]
        both = [Series("Boomerang", FAMILY, {}, tuple(ours))]
        if self.naive is not None:
            pruned = [
                Point(row.layers, self._pruned_params(row.layers), quality)
                for row, quality in zip(rows, self.naive, strict=True)
            ]
            both.append(Series(BASELINES["naive"], "naive", {}, tuple(pruned)))
        return tuple(both)

    @property
    def rows(self) -> Mapping[str, Any]:
        """What the series were measured on: `text` and `n` at least."""
        return self.measured if self.comparison is None else self.comparison.rows

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        """How they were measured, ours first."""
        if self.comparison is None:
            return [self.measured]
        return [series.provenance for series in self.series]

    def footprint(self, point: Point) -> int:
        """Standalone bytes, with as many tokens of KV cache as the family's footprints."""
        shape = self.family.shape
        weights = point.params * shape.bytes_per_param
        cache = kv_bytes_per_token(shape, point.layers)
        return footprint_bytes(weights, cache, self.family.footprint_tokens)

    def _pruned_params(self, layers: int) -> int:
        """Parameters of the teacher with that many of its layers."""
        shape = self.family.shape
        return teacher_params(shape) - (shape.num_layers - layers) * shape.layer_params


def read_findings(family: Family, given: GivenFiles) -> Findings:
    """The qualities in the family's table, its `report/` folder, and the files given.

    Raises `FamilyError` where a size was not measured, a file is malformed or is about another
    family; files of the `report/` folder may lack.
    """
    quality = [row.quality for row in family.rows if row.quality is not None]
    if len(quality) < len(family.rows):
        missing = next(row.id for row in family.rows if row.quality is None)
        raise FamilyError(
            f"size {missing} of {family.name} was never measured: "
            "run boomerang evaluate FAMILY --text FILE --save"
        )

    def own(name: str) -> Path | None:
        path = family.report_dir / name
        return path if path.exists() else None

    naive = [pruned for pruned in naive_quality(family) if pruned is not None]
    source = family_source(family)
    return Findings(
        family,
        quality,
        naive=naive or None,
        training=_read(own(TRAINING), _read_training) or (),
        comparison=_read(given.comparison, lambda path: _read_comparison(path, family, source)),
        curves=_read(given.curves, read_curves) or (),
        tasks=_read(given.tasks or own(TASKS), lambda path: read_tasks(path, family, source)),
        similarity=_read(
            given.similarity or own(SIMILARITY), lambda path: read_similarity(path, source)
        ),
        speed=_read(given.speed, lambda path: read_speed(path, family)),
    )


def _read(path: Path | None, reader: Callable[[Path], _T]) -> _T | None:
    """What the reader finds in the file; None where there is none to read."""
    return None if path is None else reader(path)


def _read_comparison(path: Path, family: Family, source: Mapping[str, Any]) -> Comparison:
    """The comparison, this family's series first."""
    comparison = read_comparison(path)
    layers = [row.layers for row in family.rows]
    for ours in comparison.series:
        if ours.source == source and [point.layers for point in ours.points] == layers:
            others = (each for each in comparison.series if each is not ours)
            return replace(comparison, series=(ours, *others))
    raise FamilyError(f"{path} does not compare {family.name} as it is now: measure it again")


def _read_training(path: Path) -> list[Step]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [step for line in lines for step in _steps(json.loads(line))]
    except (ValueError, KeyError, TypeError) as error:
        raise FamilyError(f"{path} is malformed at {error!r}") from error


def _steps(line: Mapping[str, Any]) -> Iterator[Step]:
    """What a line tells of each kind of step; an older one is a step, with its size."""
    tokens = int(line["tokens"])
    if "size" in line:
        found = {int(line["size"]) == 0: float(line["kl"])}
    else:
        kinds = {"student/kl": True, "interpolated/kl": False}
        found = {kinds[name]: float(line[name]) for name in kinds if name in line}
    for student, kl in found.items():
        if not math.isfinite(kl):
            raise ValueError(f"a KL of {kl}")
        yield Step(tokens, student, kl)
