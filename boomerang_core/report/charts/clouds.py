"""Clouds of points with the running mean through each, named where it ends; two at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from boomerang_core.report.charts.canvas import (
    GREY,
    LEFT,
    POINTS,
    WIDTH,
    halo,
    number,
    sheet,
)
from boomerang_core.report.charts.lines import BLUE, y_axis

_HEIGHT = 3.6  # inches
_NAME_PAD = 10  # points between a name and its cloud
_STYLES = ((BLUE, "o"), (GREY, "s"))


@dataclass(frozen=True)
class Cloud:
    """Points and the running mean through them, as `running_mean` gives it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    mean_x: Sequence[float]
    mean_y: Sequence[float]


@dataclass(frozen=True)
class CloudsChart:
    """One or two clouds over one pair of axes."""

    title: str
    x_label: str
    clouds: Sequence[Cloud]
    caption: Sequence[str]


def draw_clouds(chart: CloudsChart, path: Path) -> None:
    """Write the chart as PNG, atomically: raw points pale, their mean clear."""
    styled = list(zip(chart.clouds, _STYLES, strict=False))
    with sheet(chart.title, chart.caption, path, _HEIGHT) as page:
        beside = page.text_width([cloud.label for cloud in chart.clouds]) + 2 * _NAME_PAD
        axes = page.axes(LEFT, 1 - beside / (WIDTH * POINTS))
        axes.set_xlabel(chart.x_label, color=GREY)
        axes.xaxis.set_major_formatter(FuncFormatter(number))
        for cloud, (colour, mark) in styled:
            axes.plot(cloud.x, cloud.y, mark, color=colour, alpha=0.35, ms=3.5, mew=0)
            axes.plot(cloud.mean_x, cloud.mean_y, color=colour, lw=2)
        right = max(cloud.x[-1] for cloud in chart.clouds)
        axes.set_xlim(0, right)
        y_axis(axes, [y for cloud in chart.clouds for y in cloud.y], "linear")
        ends = [cloud.mean_y[-1] for cloud in chart.clouds]
        close = max(ends) - min(ends) < 0.15 * axes.get_ylim()[1]
        for (cloud, (colour, _)), end in zip(styled, ends, strict=True):
            apart = "bottom" if end == max(ends) else "top"
            axes.annotate(
                cloud.label,
                (right, end),
                (_NAME_PAD, 0),
                textcoords="offset points",
                color=colour,
                va=apart if close else "center",
                annotation_clip=False,
                path_effects=halo(),
            )


def running_mean(
    x: Sequence[float], y: Sequence[float], share: float
) -> tuple[list[float], list[float]]:
    """Means of `y` over windows of that share of the points, with the `x` of their middles.

    Only whole windows count, so the ends are as smooth as the rest.
    """
    half = int(len(y) * share / 2)
    middles = range(half, len(y) - half)
    means = [sum(y[place - half : place + half + 1]) / (2 * half + 1) for place in middles]
    return [x[place] for place in middles], means
