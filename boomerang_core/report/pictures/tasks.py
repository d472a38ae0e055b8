"""The pictures of how sizes do on tasks: a small chart a task, against parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from boomerang_core.evaluate.pairs import Estimate
from boomerang_core.report.charts.facets import Facet, FacetsChart, draw_facets
from boomerang_core.report.charts.lines import Line
from boomerang_core.report.files import Score, Tasks
from boomerang_core.report.findings import Findings
from boomerang_core.report.pictures.picture import Picture, commands, where


@dataclass(frozen=True)
class _Figure:
    """A figure of a score: its picture, its title, its value, its digits in words."""

    file: str
    title: str
    value: Callable[[Score], Estimate | None]
    digits: str


_FIGURES = (
    _Figure("tasks.png", "Accuracy", lambda score: score.accuracy, ".3f"),
    _Figure(
        "log-likelihood.png",
        "Log likelihood of the right choice, or of a word of plain text, nats",
        lambda score: score.log_likelihood,
        ".2f",
    ),
    _Figure(
        "answers.png",
        "Tokens of a generated answer",
        lambda score: score.tokens_per_answer,
        ".0f",
    ),
)


def draw_tasks(findings: Findings, out: Path) -> list[Picture]:
    """A picture for each figure that a task has."""
    tasks = findings.tasks
    if tasks is None:
        return []
    return [
        _draw(tasks, figure, facets, out)
        for figure in _FIGURES
        if (facets := [f for f in (_facet(tasks, name, figure) for name in tasks.names) if f])
    ]


def _facet(tasks: Tasks, name: str, figure: _Figure) -> Facet | None:
    """One task; None where it has no such figure."""
    rows = [row for row in tasks.rows if row.task == name]
    found = [figure.value(row) for row in rows]
    known = [estimate for estimate in found if estimate is not None]
    if len(known) < len(rows):
        return None
    line = Line(
        name,
        [row.params / 1e6 for row in rows],
        [estimate.mean for estimate in known],
        errors=[estimate.se or 0.0 for estimate in known],
    )
    return Facet(f"{name}, n = {rows[0].n:,}", line)


def _draw(tasks: Tasks, figure: _Figure, facets: Sequence[Facet], out: Path) -> Picture:
    note = tasks.provenance
    chart = FacetsChart(
        title=figure.title,
        x_label="parameters, millions",
        facets=facets,
        caption=[
            f"bars: one standard error each way; lm-eval {tasks.settings.get('lm_eval')}; "
            f"{where(note)}",
            *commands([note]),
        ],
    )
    draw_facets(chart, out / figure.file)
    digits = figure.digits
    each = (
        f"{line.label} from {line.y[0]:{digits}} to {line.y[-1]:{digits}}"
        for line in (facet.line for facet in facets)
    )
    alt = f"{figure.title}, from the smallest size to the teacher: {'; '.join(each)}."
    return Picture(figure.file, f"{figure.title}, by task", alt)
