"""Which pictures a report has, and what each says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boomerang_core.evaluate.charts import (
    Cloud,
    Series,
    SizesChart,
    TrainingChart,
    draw_sizes,
    draw_training,
    running_mean,
)
from boomerang_core.evaluate.findings import Findings
from boomerang_core.sizes import format_bytes

_STUDENT_WINDOW, _BETWEEN_WINDOW = 0.05, 0.2  # steps between differ in size, so in KL


@dataclass(frozen=True)
class Picture:
    """A PNG beside the page, and its message for those who cannot see it."""

    file: str
    caption: str
    alt: str


def draw_pictures(findings: Findings, out: Path) -> list[Picture]:
    """Write every picture that the findings bear into the folder `out`."""
    pictures = [_draw_quality(findings, out), _draw_perplexity(findings, out)]
    if findings.training:
        pictures.append(_draw_training(findings, out))
    return pictures


def _draw_quality(findings: Findings, out: Path) -> Picture:
    family = findings.family
    ours = [quality.kl for quality in findings.quality]
    naive = None if findings.naive is None else [quality.kl for quality in findings.naive]
    millions = [row.params / 1e6 for row in family.rows]
    pruned = [findings.naive_params(row.layers) / 1e6 for row in family.rows]
    chart = SizesChart(
        title="KL to the teacher, nats per token",
        x_label="parameters, millions",
        ours=_ours(findings, f"Boomerang, {ours[0]:.2f}", millions, ours),
        naive=None if naive is None else _series(f"naive pruning, {naive[0]:.2f}", pruned, naive),
        end_label="teacher",
        caption=_how_measured(findings),
    )
    draw_sizes(chart, out / "quality.png")
    student, teacher = family.table.student, family.table.teacher
    message = (
        f"KL to the teacher goes from {ours[0]:.3f} nats per token at {student.id} to "
        f"{ours[-1]:.3f} at {teacher.id}, the teacher"
    )
    alt = message + _against(ours, naive, ".3f")
    return Picture("quality.png", "KL to the teacher against parameters", alt)


def _draw_perplexity(findings: Findings, out: Path) -> Picture:
    family = findings.family
    tokens = family.footprint_tokens
    ours = [quality.perplexity for quality in findings.quality]
    naive = None if findings.naive is None else [quality.perplexity for quality in findings.naive]
    mebibytes = [row.footprint_bytes(tokens) / 2**20 for row in family.rows]
    pruned = [findings.naive_footprint(row.layers) / 2**20 for row in family.rows]
    chart = SizesChart(
        title="Perplexity, on a logarithmic scale",
        x_label=f"footprint, MiB: weights and the KV cache of {tokens:,} tokens",
        ours=_ours(findings, f"Boomerang, {ours[0]:.1f}", mebibytes, ours),
        naive=None if naive is None else _series(f"naive pruning, {naive[0]:.1f}", pruned, naive),
        end_label=f"teacher,\n{ours[-1]:.1f}",
        caption=_how_measured(findings),
        log_y=True,
    )
    draw_sizes(chart, out / "perplexity.png")
    student, teacher = (
        format_bytes(row.footprint_bytes(tokens))
        for row in (family.table.student, family.table.teacher)
    )
    message = (
        f"Perplexity goes from {ours[0]:.1f} at a footprint of {student} to {ours[-1]:.1f} at "
        f"{teacher}, the teacher"
    )
    alt = message + _against(ours, naive, ".1f")
    return Picture("perplexity.png", "Perplexity against the standalone footprint", alt)


def _draw_training(findings: Findings, out: Path) -> Picture:
    steps = findings.training
    alone = [step for step in steps if step.size == 0]
    between = [step for step in steps if step.size != 0]
    clouds, messages = [], []
    for name, chosen, share in (
        (f"student, {findings.family.table.student.id}", alone, _STUDENT_WINDOW),
        ("sizes between", between, _BETWEEN_WINDOW),
    ):
        if chosen:
            millions, kl = [step.tokens / 1e6 for step in chosen], [step.kl for step in chosen]
            mean_x, mean_y = running_mean(millions, kl, share)
            clouds.append(Cloud(f"{name}:\n{mean_y[-1]:.2f}", millions, kl, mean_x, mean_y))
            messages.append(f"{name}: from {mean_y[0]:.2f} to {mean_y[-1]:.2f}")
    dots = "dots: logged steps, each on its own batch, not on held-out text; lines: running means"
    chart = TrainingChart(
        title="KL to the teacher in training, nats per token",
        x_label="tokens, millions",
        clouds=clouds,
        caption=[dots, *_where(findings.family.provenance)],
    )
    draw_training(chart, out / "training.png")
    total = f"{steps[-1].tokens / 1e6:,.1f} million tokens"
    alt = f"KL to the teacher over {total} of training, running means: {'; '.join(messages)}."
    return Picture("training.png", "KL of the training steps against tokens", alt)


def _ours(findings: Findings, label: str, x: Sequence[float], y: Sequence[float]) -> Series:
    return Series(label, x, y, [row.offered for row in findings.family.rows])


def _series(label: str, x: Sequence[float], y: Sequence[float]) -> Series:
    return Series(label, x, y, [True] * len(x))


def _against(ours: Sequence[float], naive: Sequence[float] | None, digits: str) -> str:
    """How naive pruning compares, with numbers; the teacher, where both are equal, left out."""
    if naive is None:
        return "."
    pairs = list(zip(ours, naive, strict=True))[:-1]
    worse = f"{sum(pruned > distilled for distilled, pruned in pairs)} of the {len(pairs)}"
    return (
        f"; naive pruning starts at {naive[0]:{digits}} and is worse at {worse} sizes "
        "below the teacher."
    )


def _how_measured(findings: Findings) -> list[str]:
    """The lines under a picture of sizes: n, text, machine, date; the command."""
    note = findings.measured
    first = f"n = {note['n']:,} tokens of {note['text']}"
    if not all(row.offered for row in findings.family.rows):
        first += "; hollow dots: sizes not offered"
    place, command = _where(note)
    return [f"{first}; {place}", command]


def _where(note: Mapping[str, Any]) -> tuple[str, str]:
    """Machine and date, and the command."""
    machine = note.get("hardware") or "machine not noted"
    date = note.get("date") or "date not noted"
    command = note.get("command")
    return f"{machine}; {date}", f"$ {command}" if command else "command not noted"
