"""A family given another ladder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from boomerang_core.distill.recipe import read_settings
from boomerang_core.distill.result import RECIPE
from boomerang_core.evaluate.ladder import Measured
from boomerang_core.evaluate.record import measured_rows, save_measured
from boomerang_core.family import Family
from boomerang_core.ladder import Ladder
from boomerang_core.provenance import provenance, save_json
from boomerang_core.search.session import Sample
from boomerang_core.sizes import SizeRow


def save_ladder(
    family: Family, ladder: Ladder, measured: Measured, sample: Sample, note: Mapping[str, Any]
) -> Family:
    """Write a family's new ladder, with its sizes as measured on the sample; `family.json` is last.

    The recipe in the folder gets the ladder too, so that it makes a family with these sizes.
    `note` goes into the provenance, beside the ladder that the student was distilled with.
    """
    design = replace(family.design, ladder=ladder)
    rows = measured_rows(design, family.shape, measured)
    before = family.provenance.get("ladder", {}).get("distilled_with")
    distilled_with = before or family.design.ladder.to_json()
    seed = int(family.provenance.get("seed", 0))
    renewed = replace(
        family,
        design=design,
        rows=rows,
        default_size=_default(family.rows[family.default_size], rows),
        provenance={
            **family.provenance,
            "ladder": provenance(seed, **note, distilled_with=distilled_with),
        },
    )
    recipe = family.root / RECIPE
    if recipe.exists():
        steps = json.dumps(ladder.to_json(), separators=(",", ":"))
        save_json({**read_settings(recipe), "ladder": steps}, recipe)
    return save_measured(renewed, measured, sample.text)


def _default(before: SizeRow, rows: Sequence[SizeRow]) -> int:
    """The largest offered size that is no deeper than the default was, or the smallest."""
    offered = [row for row in rows if row.offered]
    fitting = [row for row in offered if row.layers <= before.layers]
    return (fitting[-1] if fitting else offered[0]).size
