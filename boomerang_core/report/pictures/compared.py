"""The pictures of how every series of a comparison does on a task, against parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boomerang_core.compare.comparison import Comparison
from boomerang_core.evaluate.items import TaskRow
from boomerang_core.evaluate.pairs import Estimate
from boomerang_core.report.charts.lines import Line, LinesChart, draw_lines
from boomerang_core.report.findings import Findings
from boomerang_core.report.pictures.picture import Picture, commands, where


@dataclass(frozen=True)
class _Figure:
    """A figure of a score: the end of its file's name, its title, its value."""

    file: str
    title: str
    value: Callable[[TaskRow], Estimate | None]


_ACCURACY = _Figure("accuracy", "accuracy", lambda score: score.mean_accuracy)
_LIKELIHOOD = _Figure(
    "log-likelihood",
    "log likelihood of the right answer, nats",
    lambda score: score.mean_log_likelihood,
)
_READ = _Figure(
    "log-likelihood", "log likelihood of a word, nats", lambda score: score.mean_log_likelihood
)

_Lines = Mapping[str, Sequence[tuple[TaskRow, Estimate]]]
"""By series, smallest size first."""


def draw_task_scores(findings: Findings, out: Path) -> list[Picture]:
    """For each task that the comparison has, a picture of each figure that the task has.

    Raises `SettingsError` for more series than a picture can show.
    """
    comparison = findings.comparison
    if comparison is None or comparison.tasks is None:
        return []
    names = [series.name for series in comparison.series]
    return [
        _draw(comparison, task, figure, lines, out)
        for task in comparison.tasks.names
        for found in [comparison.tasks.of(task, names)]
        for figure in _figures(found)
        if (lines := _lines(found, figure))
    ]


def _figures(found: Mapping[str, Sequence[TaskRow]]) -> Sequence[_Figure]:
    read = all(score.accuracy is None for sizes in found.values() for score in sizes)
    return [_READ] if read else [_ACCURACY, _LIKELIHOOD]


def _lines(found: Mapping[str, Sequence[TaskRow]], figure: _Figure) -> _Lines:
    """Nothing where the task has no such figure."""
    lines = {
        name: [(size, value) for size in sizes if (value := figure.value(size)) is not None]
        for name, sizes in found.items()
    }
    return {name: line for name, line in lines.items() if line}


def _draw(comparison: Comparison, task: str, figure: _Figure, lines: _Lines, out: Path) -> Picture:
    tasks = comparison.tasks
    assert tasks is not None
    plain = {series.name for series in comparison.series if series.kind == "naive"}
    teacher = next(iter(lines.values()))[-1][1]
    chart = LinesChart(
        title=f"{task}: {figure.title}",
        x_label="parameters, millions",
        lines=[_line(name, line, name in plain) for name, line in lines.items()],
        caption=[
            f"n = {teacher.n:,} items, the same for all; bars: one standard error each way; "
            f"lm-eval {tasks.settings.get('lm_eval')}; {where(tasks.provenance)}",
            *commands([tasks.provenance]),
        ],
        end_label=f"teacher,\n{teacher.mean:.2f}",
        scale="near",
    )
    file = f"compared-{re.sub(r'[^A-Za-z0-9_-]', '-', task)}-{figure.file}.png"
    draw_lines(chart, out / file)
    caption = f"{task}: {figure.title}, of every ladder, n = {teacher.n:,} items"
    return Picture(file, caption, f"{task}: {figure.title} {_words(lines)}")


def _line(name: str, line: Sequence[tuple[TaskRow, Estimate]], plain: bool) -> Line:
    values = [value for _, value in line]
    return Line(
        f"{name}, {values[0].mean:.2f}",
        [size.params / 1e6 for size, _ in line],
        [value.mean for value in values],
        errors=[value.se or 0.0 for value in values],
        plain=plain,
    )


def _words(lines: _Lines) -> str:
    """How the first line goes, and how every other compares; the teacher, the same in all, left
    out."""
    (name, ours), *others = lines.items()
    (first, start), (last, end) = ours[0], ours[-1]
    message = (
        f"goes from {start} at {first.layers} layers to {end} at {last.layers}, the teacher, "
        f"in {name}"
    )
    return "; ".join([message, *(_against(ours, *other) for other in others)]) + "."


def _against(
    ours: Sequence[tuple[TaskRow, Estimate]],
    name: str,
    theirs: Sequence[tuple[TaskRow, Estimate]],
) -> str:
    known: dict[int, float] = {}
    for size, value in theirs:
        known.setdefault(size.layers, value.mean)  # the first of that many layers
    pairs = [(value.mean, known[size.layers]) for size, value in ours[:-1] if size.layers in known]
    start = f"{name} starts at {theirs[0][1]}"
    if not pairs:
        return start
    lower = sum(other < mine for mine, other in pairs)
    return f"{start} and is lower at {lower} of the {len(pairs)} sizes below the teacher"
