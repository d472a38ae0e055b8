"""Which pictures a report has, and what each says in words."""

from __future__ import annotations

from pathlib import Path

from boomerang_core.report.findings import Findings
from boomerang_core.report.pictures.compared import draw_task_scores
from boomerang_core.report.pictures.picture import Picture
from boomerang_core.report.pictures.similarity import draw_similarity, draw_student_layers
from boomerang_core.report.pictures.sizes import draw_perplexity, draw_quality, draw_speed
from boomerang_core.report.pictures.tasks import draw_tasks
from boomerang_core.report.pictures.training import draw_curves, draw_training

__all__ = ["Picture", "draw_pictures"]


def draw_pictures(findings: Findings, out: Path) -> list[Picture]:
    """Write every picture that the findings bear into the folder `out`.

    Raises `SettingsError` for more ladders or curves than a picture can show.
    """
    draw = [draw_quality, draw_perplexity]
    draw += [draw_speed] if findings.speed else []
    draw += [draw_similarity, draw_student_layers] if findings.similarity else []
    draw += [draw_curves] if findings.curves else []
    draw += [draw_training] if findings.training else []
    drawn = [each(findings, out) for each in draw]
    return [*drawn, *draw_task_scores(findings, out), *draw_tasks(findings, out)]
