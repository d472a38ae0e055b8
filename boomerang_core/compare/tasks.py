"""Every series of a comparison on lm-eval's tasks, over the same items.

What each size answered is kept as soon as it is there, under all that decides it: what the series
is made of, the teacher's weights, how the task asks.  The teacher, which every series ends at,
answers once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from boomerang_core.assemble import assemble
from boomerang_core.compare.comparison import Comparison, Series
from boomerang_core.compare.task_scores import ComparedRow, ComparedTasks
from boomerang_core.evaluate.answers import read_answers, write_answers
from boomerang_core.evaluate.harness import VERSION, Leaf, harnessed, load_tasks, run_leaf
from boomerang_core.evaluate.items import Item, task_row
from boomerang_core.evaluate.planned import PlannedLadder, Section, teacher_ladder
from boomerang_core.evaluate.tasks import TaskSettings, Tell, task_name
from boomerang_core.provenance import provenance
from boomerang_core.route import teacher_route

_TEACHER = "teacher.json"
"""Where its answers are kept; those of a series' sizes are in NAME-SIZE.json."""


@dataclass(frozen=True)
class Ladders:
    """How the series of a comparison run: each by name, planned when asked for.

    `teacher` loads the teacher in a format.
    """

    planned: Mapping[str, Callable[[], PlannedLadder]]
    teacher: Callable[[torch.dtype], Any]
    tokenizer: Any


@dataclass(frozen=True)
class _Size:
    """A size of a series, as it answers: where its answers are kept, and what decides them."""

    series: str
    id: str
    layers: int
    params: int
    file: str
    source: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What people call it."""
        return "the teacher" if self.file == _TEACHER else f"{self.series} {self.id}"


class TaskRun:
    """Tasks with their data, for all series of a comparison.

    Raises `SettingsError` and `DataError` where a task cannot be had.
    """

    def __init__(self, settings: TaskSettings, ladders: Ladders, folder: Path, tell: Tell) -> None:
        """`folder` keeps the answers; `tell` hears of every task and size."""
        self._settings, self._ladders = settings, ladders
        self._folder, self._tell = folder, tell
        self._tasks = load_tasks(settings.tasks, settings.few_shot)
        self._leaves = [leaf for parts in self._tasks.values() for leaf in parts]
        self._answered: set[tuple[str, str]] = set()

    def scores(self, comparison: Comparison, seed: int) -> ComparedTasks:
        """Run what is not kept, and compare all sizes with the teacher.

        A series of which there is no ladder, as another command measured it, is left out unless
        all of its answers are kept.  Raises `DataError`, `CheckpointError`, `WriteError`.
        """
        sizes = {series.name: _sizes(comparison, series) for series in comparison.series}
        self._run(sizes)
        whole = {name: each for name, each in sizes.items() if not any(map(self._missing, each))}
        for name in (name for name in sizes if name not in whole):
            self._tell(f"{name} did not answer every task: name it in the command to have it run")
        rows = tuple(
            row
            for task, leaves in self._tasks.items()
            for row in self._rows(task, leaves, list(whole.values()))
        )
        return ComparedTasks(rows, self._settings.told(VERSION), provenance(seed))

    def _run(self, sizes: Mapping[str, Sequence[_Size]]) -> None:
        """Plans come first: they want the teacher in float32, and one teacher is held at a time."""
        planned = {
            name: plan()
            for name, plan in self._ladders.planned.items()
            if any(map(self._missing, sizes[name][:-1]))
        }
        teacher = next(iter(sizes.values()))[-1]
        if not planned and not self._missing(teacher):
            return
        dtype: torch.dtype = getattr(torch, self._settings.dtype)
        model = self._ladders.teacher(dtype)
        whole = teacher_route(range(teacher.layers))
        self._run_ladder(model, teacher_ladder([whole]), [teacher])
        for name, ladder in planned.items():
            assert ladder.routes[-1] == whole, f"{name} does not end at the teacher"
            self._run_ladder(model, ladder, sizes[name])

    def _run_ladder(self, model: Any, ladder: PlannedLadder, sizes: Sequence[_Size]) -> None:
        place = 0
        for section in ladder.sections:
            count = len(section.routes)
            self._run_section(model, section, sizes[place : place + count])
            place += count

    def _run_section(self, model: Any, section: Section, sizes: Sequence[_Size]) -> None:
        if not any(map(self._missing, sizes)):
            return
        student = section.student(model)
        for size, route in zip(sizes, section.routes, strict=True):
            if missing := self._missing(size):
                assembled = assemble(model, student, route)
                lm = harnessed(assembled, self._ladders.tokenizer, self._settings.batch_size)
                for leaf in missing:
                    self._answer(leaf, size, lm)

    def _answer(self, leaf: Leaf, size: _Size, lm: Any) -> None:
        settings, start = self._settings, time.monotonic()
        items = run_leaf(leaf, lm, self._ladders.tokenizer, settings.limit, settings.chat)
        seconds = time.monotonic() - start
        self._tell(f"{leaf.name} {size.label}: {len(items)} items in {seconds:.1f} s")
        write_answers(self._path(leaf, size), self._deciding(leaf, size), items)

    def _missing(self, size: _Size) -> list[Leaf]:
        """What the size did not answer yet."""
        return [leaf for leaf in self._leaves if not self._has(leaf, size)]

    def _has(self, leaf: Leaf, size: _Size) -> bool:
        key = leaf.name, size.file
        if key not in self._answered and self._kept(leaf, size) is not None:
            self._answered.add(key)
        return key in self._answered

    def _kept(self, leaf: Leaf, size: _Size) -> list[Item] | None:
        return read_answers(self._path(leaf, size), self._deciding(leaf, size))

    def _path(self, leaf: Leaf, size: _Size) -> Path:
        return self._folder / leaf.name / size.file

    def _deciding(self, leaf: Leaf, size: _Size) -> dict[str, Any]:
        return {**size.source, "lm_eval": VERSION, **self._settings.deciding, **leaf.settings}

    def _rows(
        self, task: str, leaves: Sequence[Leaf], ladders: Sequence[Sequence[_Size]]
    ) -> Iterator[ComparedRow]:
        """A group's leaves count by their items."""
        teacher = self._items(leaves, ladders[0][-1])
        for sizes in ladders:
            for size in sizes:
                items = teacher if size is sizes[-1] else self._items(leaves, size)
                yield ComparedRow(size.series, task_row(task_name(task), size, items, teacher))

    def _items(self, leaves: Sequence[Leaf], size: _Size) -> list[Item]:
        return [item for leaf in leaves for item in self._kept(leaf, size) or ()]


def _sizes(comparison: Comparison, series: Series) -> list[_Size]:
    """The sizes of a series; the last, the teacher, is the same in all."""
    weights = {"weights": comparison.rows["weights"]}
    source: dict[str, Any] = {**weights, "kind": series.kind, "source": series.source}
    if "calibration" in series.source:  # whose rows are as long as those measured on
        source["row_length"] = comparison.rows["row_length"]
    sizes = [
        _Size(
            series.name,
            f"{point.layers}L",
            point.layers,
            point.params,
            f"{quote(series.name, safe='')}-{index}.json",
            {**source, "size": index},
        )
        for index, point in enumerate(series.points)
    ]
    last = sizes[-1]
    return [*sizes[:-1], replace(last, file=_TEACHER, source=weights)]
