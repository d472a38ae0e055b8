"""The pictures of how alike hidden states are: sizes and teacher, student and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boomerang_core.report.charts.heat import HeatChart, draw_heat
from boomerang_core.report.files import Similarity
from boomerang_core.report.findings import Findings
from boomerang_core.report.pictures.picture import Picture, commands, where


def draw_similarity(findings: Findings, out: Path) -> Picture:
    """The cosine of every size's hidden state and the teacher's at the end of each block."""
    found = _found(findings)
    chart = HeatChart(
        title="Cosine of hidden states, a size's and the teacher's, at the end of each block",
        x_label="teacher layers of the block",
        columns=[_span(block) for block in found.blocks],
        rows=found.sizes,
        values=found.cosine,
        caption=_how_measured(found),
    )
    draw_heat(chart, out / "similarity.png")
    student = found.cosine[0]
    lowest = min(range(len(student)), key=student.__getitem__)
    alt = (
        f"Mean cosine with the teacher: the lowest of {found.sizes[0]} is {student[lowest]:.3f}, "
        f"after layers {_span(found.blocks[lowest])}; at the last block it is {student[-1]:.3f}."
    )
    return Picture("similarity.png", "Hidden states, size by block", alt)


def draw_student_layers(findings: Findings, out: Path) -> Picture:
    """The cosine of the student's state at each block's end and the teacher's after any layer."""
    found = _found(findings)
    layers = [layer for block in found.blocks for layer in block]
    chart = HeatChart(
        title="Cosine of hidden states, the student's and the teacher's after each of its layers",
        x_label="teacher layer",
        columns=[str(layer) for layer in layers],
        rows=[_span(block) for block in found.blocks],
        values=found.student,
        caption=[
            "rows: the student at the end of the block of these layers",
            *_how_measured(found),
        ],
    )
    draw_heat(chart, out / "student-layers.png")
    nearest = [max(layers, key=row.__getitem__) for row in found.student]
    pairs = zip(nearest, found.blocks, strict=True)
    inside = sum(layer == block[-1] for layer, block in pairs)
    alt = (
        f"The student's state at a block's end is nearest to the teacher's at the same place in "
        f"{inside} of {len(found.blocks)} blocks."
    )
    return Picture("student-layers.png", "Hidden states of the student, block by layer", alt)


def _found(findings: Findings) -> Similarity:
    assert findings.similarity is not None
    return findings.similarity


def _how_measured(found: Similarity) -> list[str]:
    note = found.provenance
    text = note.get("text") or "a text that was not noted"
    return [f"n = {found.n:,} tokens of {text}; {where(note)}", *commands([note])]


def _span(block: Sequence[int]) -> str:
    return str(block[0]) if len(block) == 1 else f"{block[0]}–{block[-1]}"
