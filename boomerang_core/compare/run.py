"""Families and baselines measured on the same rows of text and the same tasks, against one teacher.

Shapes: R rows, L tokens a row, S sentences.

Each series is written as soon as it is measured, so a comparison that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from boomerang_core.baselines.ladders import laco_ladder, naive_ladder, shortgpt_ladder
from boomerang_core.checkpoint import frozen_teacher, load_tokenizer, teacher_folder
from boomerang_core.checkpoint_files import weight_files
from boomerang_core.compare.comparison import (
    BASELINES,
    FAMILY,
    Comparison,
    Point,
    Series,
    read_comparison,
    write_comparison,
)
from boomerang_core.contents import sha256_of
from boomerang_core.errors import DataError, FamilyError, SettingsError
from boomerang_core.evaluate.planned import PlannedLadder, family_ladder, measure_ladder
from boomerang_core.evaluate.record import rounded
from boomerang_core.evaluate.tasks import TaskSettings, Tell
from boomerang_core.family import Family, family_source
from boomerang_core.footprint import route_params
from boomerang_core.own_teacher import require_own_teacher
from boomerang_core.provenance import provenance
from boomerang_core.text.documents import read_text
from boomerang_core.text.evaluation import Sample
from boomerang_core.text.rows import begin_token, pack
from boomerang_core.text.sources import shown, source_versions

if TYPE_CHECKING:
    from boomerang_core.compare.tasks import TaskRun

ITEMS = ".items"
"""In place of the comparison's suffix: the folder beside it with what sizes answered on tasks."""

SENTENCES, SENTENCE_TOKENS = 10, 32
"""LaCo's few-shot samples; its paper takes ten sentences of Wikipedia, here pieces of a text."""


@dataclass(frozen=True)
class Texts:
    """What to measure on, and what ShortGPT and LaCo calibrate on: not the same.

    `calibration` is a source of text as `make` takes them; None where no baseline needs one.
    """

    sample: Sample
    calibration: str | None = None
    calibration_tokens: int = 8192
    seed: int = 0


@dataclass(frozen=True)
class _Job:
    """A series to measure, unless it is finished."""

    name: str
    kind: str
    source: Mapping[str, Any]
    plan: Callable[[], PlannedLadder]


def compare(
    families: Mapping[str, Family],
    baselines: Sequence[str],
    texts: Texts,
    out: Path,
    device: torch.device,
    tasks: TaskSettings | None = None,
    tell: Tell = print,
) -> Comparison:
    """Measure families, by name, and baselines at the depths of the first family's sizes.

    `out` keeps every finished series; the folder beside it, what each size answered on the `tasks`,
    which run on the `device` too.  `tell` hears of every task and size.  Raises `FamilyError` where
    the teachers differ, one is not its family's own, or `out` is no comparison, `DataError` for
    texts and tasks that do not do and where `out` was measured on other rows, `SettingsError`,
    `CheckpointError`, `WriteError`.
    """
    _check(families, baselines, texts)
    bench = _Bench(families, texts, device)
    comparison = _begun(out, bench.rows)
    jobs = bench.jobs(baselines)
    run = None if tasks is None else _task_run(bench, jobs, tasks, out, tell)
    for job in jobs:
        if not comparison.finished(job.name, job.kind, job.source):
            comparison = comparison.with_series(bench.series(job))
            write_comparison(comparison, out)
    if run is not None:
        comparison = replace(comparison, tasks=run.scores(comparison, texts.seed))
        write_comparison(comparison, out)
    return comparison


def _begun(out: Path, rows: Mapping[str, Any]) -> Comparison:
    """What is in the file already."""
    if not out.exists():
        return Comparison(rows)
    comparison = read_comparison(out)
    if comparison.rows != rows:
        raise DataError(f"{out} was measured on other rows or another teacher: give a new --out")
    return comparison


def _task_run(
    bench: _Bench, jobs: Sequence[_Job], tasks: TaskSettings, out: Path, tell: Tell
) -> TaskRun:
    """The tasks with their data; what is wrong with them shows before anything is measured."""
    from boomerang_core.compare.tasks import Ladders, TaskRun

    assert tasks.server is None, "baselines are on no server"
    planned = {job.name: partial(bench.plan, job) for job in jobs}
    ladders = Ladders(planned, bench.teacher, bench.tokenizer)
    return TaskRun(tasks, ladders, out.with_suffix(ITEMS), tell)


def _check(families: Mapping[str, Family], baselines: Sequence[str], texts: Texts) -> None:
    if unknown := sorted(set(baselines) - BASELINES.keys()):
        raise SettingsError(
            f"there is no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}"
        )
    if clash := sorted(families.keys() & set(BASELINES.values())):
        raise SettingsError(f"{clash[0]} is the name of a baseline: give another as NAME=FOLDER")
    if texts.calibration is None and {"shortgpt", "laco"} & set(baselines):
        raise SettingsError("ShortGPT and LaCo need a calibration text: give --calibration")
    for family in families.values():
        require_own_teacher(family)
    (name, first), *others = families.items()
    for other, family in others:
        if not _same_teacher(first, family):
            raise FamilyError(f"{other} has another teacher than {name}: compare them apart")


def _same_teacher(first: Family, other: Family) -> bool:
    if (first.architecture, first.shape) != (other.architecture, other.shape):
        return False
    folders = [teacher_folder(family).resolve() for family in (first, other)]
    return folders[0] == folders[1] or _weights(folders[0]) == _weights(folders[1])


def _weights(folder: Path) -> dict[str, str]:
    """The sha256 of each of the files that a checkpoint's weights are read from."""
    return {file.name: sha256_of(file) for file in weight_files(folder)}


def sentences(documents: Sequence[torch.Tensor], begin: int | None) -> torch.Tensor:
    """LaCo's samples (S, L): pieces of a text at equal distances.

    Raises DataError for a text of fewer.
    """
    every_RL = pack(documents, SENTENCE_TOKENS, "calibration", begin)
    if len(every_RL) < SENTENCES:
        raise DataError(
            f"the calibration text has {len(every_RL)} sentences of {SENTENCE_TOKENS} tokens; LaCo "
            f"takes {SENTENCES}: give more --calibration-tokens, or more text"
        )
    return every_RL[:: len(every_RL) // SENTENCES][:SENTENCES]


class _Bench:
    """The rows that all series share; the teacher, loaded when a series needs it."""

    def __init__(self, families: Mapping[str, Family], texts: Texts, device: torch.device) -> None:
        self._families, self._texts, self._device = families, texts, device
        self._first = next(iter(families.values()))
        self._planned: dict[str, PlannedLadder] = {}
        self._model: Any = None
        self.tokenizer = load_tokenizer(self._first)
        self._ids_RL = texts.sample.rows(self.tokenizer)
        rows, length = self._ids_RL.shape
        self.rows = {
            "teacher": self._first.teacher_name,
            "weights": _weights(teacher_folder(self._first)),
            "text": texts.sample.text.name,
            "sha256": sha256_of(texts.sample.text),
            "n": rows * (length - 1),
            "row_length": length,
            "against": "the teacher, all in float32",
        }
        if texts.calibration is not None:
            self._calibrated_on = self._calibration_note(texts.calibration)
            self._documents = read_text(
                [texts.calibration], self.tokenizer, texts.calibration_tokens, texts.seed
            ).documents
            self._begin = begin_token(self.tokenizer)
            length = texts.sample.row_length
            self._calibration_RL = pack(self._documents, length, "calibration", self._begin)

    def jobs(self, baselines: Sequence[str]) -> list[_Job]:
        """Every series, in the order in which it was asked for.  Raises DataError."""
        if "laco" in baselines:
            self._sentences_SL = sentences(self._documents, self._begin)
        plan = {"naive": self._naive, "shortgpt": self._shortgpt, "laco": self._laco}
        families = [
            _Job(name, FAMILY, family_source(family), partial(family_ladder, family))
            for name, family in self._families.items()
        ]
        return families + [
            _Job(BASELINES[kind], kind, self._baseline_source(kind), plan[kind])
            for kind in dict.fromkeys(baselines)
        ]

    def series(self, job: _Job) -> Series:
        """Measure it."""
        ladder = self.plan(job)
        qualities = measure_ladder(self.teacher(torch.float32), ladder, self._ids_RL, job.name)
        points = tuple(
            Point(len(route.layers), route_params(self._first.shape, route), rounded(quality))
            for route, quality in zip(ladder.routes, qualities, strict=True)
        )
        note = provenance(self._texts.seed, **ladder.notes)
        return Series(job.name, job.kind, job.source, points, note)

    def _baseline_source(self, kind: str) -> Mapping[str, Any]:
        if kind == "naive":
            source = family_source(self._first)
            return {name: source[name] for name in ("blocks", "ladder")}
        source = {"depths": self._depths, "calibration": self._calibrated_on}
        return {**source, "sentences": SENTENCES} if kind == "laco" else source

    def _calibration_note(self, calibration: str) -> dict[str, Any]:
        sha256 = source_versions([calibration]).get(calibration)
        if sha256 == self.rows["sha256"]:
            raise DataError(f"{self.rows['text']} is measured on: calibrate on another text")
        return {
            "text": shown(calibration),
            "sha256": sha256,
            "tokens": self._texts.calibration_tokens,
            "seed": self._texts.seed,
        }

    @property
    def _depths(self) -> list[int]:
        return sorted({row.layers for row in self._first.rows})

    def plan(self, job: _Job) -> PlannedLadder:
        """What its sizes run; found once."""
        if job.name not in self._planned:
            self._planned[job.name] = job.plan()
        return self._planned[job.name]

    def teacher(self, dtype: torch.dtype) -> Any:
        """The teacher in that format; only the last one asked for is kept."""
        if self._model is None or self._model.dtype != dtype:
            self._model = None  # before there are two
            self._model = frozen_teacher(self._first, dtype, self._device)
        return self._model

    def _naive(self) -> PlannedLadder:
        return naive_ladder(self._first.design)

    def _shortgpt(self) -> PlannedLadder:
        model = self.teacher(torch.float32)
        return shortgpt_ladder(model, self._depths, self._calibration_RL)

    def _laco(self) -> PlannedLadder:
        return laco_ladder(self.teacher(torch.float32), self._depths, self._sentences_SL)
