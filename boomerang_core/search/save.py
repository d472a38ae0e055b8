"""A family given another ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from boomerang_core.choices import compact
from boomerang_core.contents import RECIPE, REPORT, SIMILARITY, TASKS
from boomerang_core.distill.settings import read_settings
from boomerang_core.evaluate.ladder import Measured
from boomerang_core.evaluate.record import measured_rows, remeasured, write_reports
from boomerang_core.family import Family
from boomerang_core.files import save_json
from boomerang_core.ladder import Ladder
from boomerang_core.provenance import provenance
from boomerang_core.saving import saved
from boomerang_core.sizes import SizeRow
from boomerang_core.text.evaluation import Sample

_OF_THE_SIZES = [f"{REPORT}/{name}" for name in (TASKS, SIMILARITY)]


def save_ladder(
    family: Family, ladder: Ladder, measured: Measured, sample: Sample, note: Mapping[str, Any]
) -> Family:
    """Give a family a new ladder, with its sizes as measured on the sample.

    The recipe in the folder gets the ladder too, so that it makes a family with these sizes; scores
    and similarities of the old sizes go.  `note` goes into the provenance, beside the ladder that
    the student was distilled with.  Raises `WriteError`; the family is then as it was.
    """
    design = replace(family.design, ladder=ladder)
    rows = measured_rows(design, family.shape, measured)
    before = family.provenance.get("ladder", {}).get("distilled_with")
    distilled_with = before or family.design.ladder.to_json()
    renewed = replace(
        family,
        design=design,
        rows=rows,
        default_size=_default(family.rows[family.default_size], rows),
        provenance={
            **family.provenance,
            "ladder": provenance(family.seed, **note, distilled_with=distilled_with),
        },
    )
    renewed = remeasured(renewed, measured, sample.text)
    with saved(renewed, without=_OF_THE_SIZES) as folder:
        write_reports(folder / REPORT, design, measured)
        if (family.root / RECIPE).exists():
            steps = compact(ladder.to_json())
            save_json({**read_settings(family.root / RECIPE), "ladder": steps}, folder / RECIPE)
    return renewed


def _default(before: SizeRow, rows: Sequence[SizeRow]) -> int:
    """The largest offered size that is no deeper than the default was, or the smallest."""
    offered = [row for row in rows if row.offered]
    fitting = [row for row in offered if row.layers <= before.layers]
    return (fitting[-1] if fitting else offered[0]).size
