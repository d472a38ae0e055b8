"""The pictures of training: KL against tokens, and against wall time."""

from __future__ import annotations

from pathlib import Path

from boomerang_core.report.charts.clouds import Cloud, CloudsChart, draw_clouds, running_mean
from boomerang_core.report.charts.lines import Line, LinesChart, draw_lines
from boomerang_core.report.findings import Findings
from boomerang_core.report.pictures.picture import Picture, commands, where

_STUDENT_WINDOW, _BETWEEN_WINDOW = 0.05, 0.2  # steps between differ in size, so in KL


def draw_training(findings: Findings, out: Path) -> Picture:
    """KL of the training steps against tokens."""
    steps = findings.training
    alone = [step for step in steps if step.student]
    between = [step for step in steps if not step.student]
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
    dots = "dots: as logged, on what was trained on, not on held-out text; lines: running means"
    made = findings.family.provenance
    chart = CloudsChart(
        title="KL to the teacher in training, nats per token",
        x_label="tokens, millions",
        clouds=clouds,
        caption=[dots, where(made), *commands([made])],
    )
    draw_clouds(chart, out / "training.png")
    total = f"{steps[-1].tokens / 1e6:,.1f} million tokens"
    alt = f"KL to the teacher over {total} of training, running means: {'; '.join(messages)}."
    return Picture("training.png", "KL of the training steps against tokens", alt)


def draw_curves(findings: Findings, out: Path) -> Picture:
    """The student's KL against the seconds that each way of distilling took."""
    lines = [
        Line(
            f"{curve.name}, {curve.points[-1].kl:.2f}",
            [point.seconds for point in curve.points],
            [point.kl for point in curve.points],
        )
        for curve in findings.curves
    ]
    notes = [curve.provenance for curve in findings.curves]
    chart = LinesChart(
        title="The student's KL to the teacher, nats per token",
        x_label="seconds of distillation, on a logarithmic scale",
        lines=lines,
        caption=[where(notes[0]), *commands(notes)],
        names="end",
        log_x=True,
    )
    draw_lines(chart, out / "curves.png")
    each = (
        f"{curve.name}: {curve.points[-1].kl:.3f} after {curve.points[-1].seconds:,.0f} s and "
        f"{curve.points[-1].tokens:,} tokens"
        for curve in findings.curves
    )
    alt = f"The student's KL to the teacher at the end of each run: {'; '.join(each)}."
    return Picture("curves.png", "KL of the student against the time of distillation", alt)
