"""A family's report: one page and its pictures, from what the family folder holds; no torch.

index.html        the sizes, the pictures, where the figures come from
quality.png       KL to the teacher against parameters
perplexity.png    perplexity against the standalone footprint
training.png      KL of the training steps, where the family kept them
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.findings import Findings, read_findings
from boomerang_core.evaluate.pictures import Picture, draw_pictures
from boomerang_core.family import Family
from boomerang_core.footprint import resident_params, teacher_params
from boomerang_core.provenance import write_atomically
from boomerang_core.sizes import Quality, format_bytes

_TEMPLATE = "report.html.jinja"


def write_report(family: Family, out: Path) -> Path:
    """Write the pictures into the folder `out`, then the page; the page's path.

    Raises `FamilyError` where the family was not measured or a report in it is malformed,
    `SettingsError` where `out` cannot be written to.
    """
    if out.resolve().is_relative_to(family.root.resolve()):
        raise SettingsError(f"{out} lies in the family folder, which holds only what it lists")
    findings = read_findings(family)
    path = out / "index.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        page = render(findings, draw_pictures(findings, out))
        write_atomically(path, lambda temporary: _write_text(temporary, page))
    except OSError as error:
        raise SettingsError(f"cannot write a report into {out}: {error}") from error
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
        teacher="/".join(filter(None, (family.teacher.location, family.teacher.file))),
        resident=resident_params(family.shape, family.student_params)
        / teacher_params(family.shape),
        measured=findings.measured,
        rows=_rows(findings),
        with_naive=findings.naive is not None,
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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
