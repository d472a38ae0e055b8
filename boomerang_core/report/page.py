"""A family's report: one page and its pictures, from what was measured; no torch.

index.html        the sizes, the pictures, where the figures come from
quality.png       KL to the teacher against parameters, and
perplexity.png    perplexity against the standalone footprint: every ladder of a comparison, or the
                  family and naive pruning

and, where the family or the command has the figures:

compared-TASK-accuracy.png         of a comparison's series on a task, against parameters;
compared-TASK-log-likelihood.png   that of the right answers
tasks.png         accuracy on each task against parameters; log-likelihood.png that of the right
                  choices, answers.png the length of generated answers
speed.png         KL to the teacher against tokens per second
similarity.png    cosine with the teacher, size by block; student-layers.png, block by layer
curves.png        KL of the student against the time of distillation
training.png      KL of the training steps
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from boomerang_core.compare.comparison import Comparison
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from boomerang_core.files import write_text
from boomerang_core.footprint import resident_params, teacher_params
from boomerang_core.report.files import Tasks
from boomerang_core.report.findings import Findings, GivenFiles, read_findings
from boomerang_core.report.pictures import Picture, draw_pictures
from boomerang_core.sizes import Quality, format_bytes

_TEMPLATE = "page.html.jinja"


def write_report(family: Family, out: Path, given: GivenFiles | None = None) -> Path:
    """Write the pictures into the folder `out`, then the page; the page's path.

    `given` are files to show beside those of the family folder.  Raises `FamilyError` where the
    family was not measured or a file is malformed, `SettingsError` where `out` lies in the family
    folder or there is more than pictures can show, `WriteError` where `out` cannot be written to.
    """
    if out.resolve().is_relative_to(family.root.resolve()):
        raise SettingsError(f"{out} lies in the family folder, which holds only what it lists")
    findings = read_findings(family, given or GivenFiles())
    path = out / "index.html"
    write_text(path, render(findings, draw_pictures(findings, out)))
    return path


def render(findings: Findings, pictures: Sequence[Picture]) -> str:
    """The page, every value escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    family = findings.family
    return environment.get_template(_TEMPLATE).render(
        family=family,
        teacher=family.teacher_name,
        resident=resident_params(family.shape, family.student_params)
        / teacher_params(family.shape),
        measured=findings.measured,
        rows=_rows(findings),
        with_naive=findings.naive is not None,
        compared=_compared(findings.comparison) if findings.comparison else None,
        tasks=_on_tasks(findings.tasks) if findings.tasks else None,
        pictures=pictures,
    )


def _rows(findings: Findings) -> list[dict[str, Any]]:
    """The table's cells, a row a size."""
    family = findings.family
    naive: Sequence[Quality | None] = findings.naive or [None] * len(family.rows)
    return [
        {
            "size": row,
            "footprint": format_bytes(row.footprint_bytes(family.footprint_tokens)),
            "quality": quality,
            "naive": pruned,
        }
        for row, quality, pruned in zip(family.rows, findings.quality, naive, strict=True)
    ]


def _on_tasks(tasks: Tasks) -> dict[str, Any]:
    """The table of tasks: a row for each size, a column a task."""
    found = {(row.size, row.task): row for row in tasks.rows}
    sizes = dict.fromkeys(row.size for row in tasks.rows)
    return {
        "names": tasks.names,
        "rows": [(size, [found.get((size, task)) for task in tasks.names]) for size in sizes],
        "settings": tasks.settings,
        "provenance": tasks.provenance,
    }


def _compared(comparison: Comparison) -> dict[str, Any]:
    """The tables of a comparison: a row for each number of layers, a column a series."""
    depths = sorted({point.layers for series in comparison.series for point in series.points})
    names = [series.name for series in comparison.series]
    tasks = comparison.tasks
    return {
        "names": names,
        "rows": [(depth, [series.at(depth) for series in comparison.series]) for depth in depths],
        "on": comparison.rows,
        "made": {series.name: series.provenance for series in comparison.series},
        "tables": tasks.tables(names) if tasks else [],
        "asked": {"settings": tasks.settings, "provenance": tasks.provenance} if tasks else None,
    }
