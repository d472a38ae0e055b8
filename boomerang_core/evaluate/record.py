"""Write what was measured: the reports of a family folder, and its table of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from boomerang_core.contents import NAIVE, REPORT, sha256_of
from boomerang_core.evaluate.ladder import Measured, pareto
from boomerang_core.family import Family, build_rows
from boomerang_core.files import save_json
from boomerang_core.footprint import ModelShape
from boomerang_core.provenance import provenance
from boomerang_core.route import FamilyDesign, ladder_routes
from boomerang_core.saving import saved
from boomerang_core.sizes import Quality, SizeRow
from boomerang_core.text.sources import is_markup, is_plain


def save_measured(
    family: Family, measured: Measured, text: Path, more: Mapping[str, Any] | None = None
) -> Family:
    """Put a new measurement into a family folder: reports, qualities, offered sizes, provenance.

    `more` are further reports, by file name.  Raises `WriteError`; the family is then as it was.
    """
    renewed = remeasured(family, measured, text)
    with saved(renewed) as folder:
        write_reports(folder / REPORT, family.design, measured)
        for name, record in (more or {}).items():
            save_json(record, folder / REPORT / name)
    return renewed


def remeasured(family: Family, measured: Measured, text: Path) -> Family:
    """The family with a new measurement.

    How the student was made stays in the provenance; how it was measured is replaced.
    """
    note = provenance(family.seed, **evaluation_note(measured, text))
    return replace(
        family,
        rows=measured_rows(family.design, family.shape, measured),
        provenance={**family.provenance, "evaluation": note},
    )


def save_report(family: Family, name: str, record: Any) -> None:
    """Put one more report into a family folder, which lists it from then on.

    Raises `WriteError`; the family is then as it was.
    """
    with saved(family) as folder:
        save_json(record, folder / REPORT / name)


def measured_rows(
    design: FamilyDesign, shape: ModelShape, measured: Measured
) -> tuple[SizeRow, ...]:
    """The table of a measured ladder; sizes on the Pareto front are offered."""
    quality = {size: rounded(value) for size, value in enumerate(measured.family)}
    params = [row.params for row in build_rows(design, shape)]
    return build_rows(design, shape, quality, pareto(measured.family, params))


def evaluation_note(measured: Measured, text: Path | None, written: float = 0.0) -> dict[str, Any]:
    """What the sizes were measured on; None is the recipe's own held-out documents.

    `written` is the share of the tokens of those documents that are the teacher's own.
    """
    scored = {"n": measured.family[0].n, "against": "the teacher in float32, student as stored"}
    if text is None:
        own = f", of which the teacher wrote about {written:.0%}" if written else ""
        return {"text": f"held-out documents of the recipe's own text{own}", **scored}
    return {"text": text.name, "sha256": sha256_of(text), "note": _reading(text), **scored}


def _reading(text: Path) -> str:
    """What `evaluation_rows` did to the text before it was scored."""
    if not is_plain(str(text)) or is_markup(str(text)):
        return "read as training text is, cut into rows: not comparable with published perplexities"
    if b"<unk>" in text.read_bytes():
        return (
            "detokenised, sentences with <unk> dropped: not comparable with published perplexities"
        )
    return "as it is, cut into rows: not comparable with published perplexities"


def write_reports(folder: Path, design: FamilyDesign, measured: Measured) -> None:
    """`sizes.json` and `naive.json`: one row a size, on the same rows of text."""
    layers = [len(route.layers) for route in ladder_routes(design)]
    for name, qualities in (("sizes.json", measured.family), (NAIVE, measured.naive)):
        rows = [
            {"layers": count, **asdict(rounded(quality))}
            for count, quality in zip(layers, qualities, strict=True)
        ]
        save_json(rows, folder / name)


def rounded(quality: Quality) -> Quality:
    """Figures to the digits that the number of tokens can bear."""
    return Quality(
        round(quality.kl, 4), round(quality.top1, 4), round(quality.perplexity, 2), quality.n
    )
