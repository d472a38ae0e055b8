"""A heat map: one number for each pair of a row and a column, darker where it is lower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from boomerang_core.report.charts.canvas import GREY, WIDTH, sheet

_CELL = 0.27  # inches, the least height of a row
_WIDEST_NUMBERS = 24  # columns in which numbers are readable
_MAP = "cividis"  # even steps for every kind of colour vision
_BELOW, _LETTER = 0.55, 0.08  # inches: the label under the ticks; a letter of a tick, upright


@dataclass(frozen=True)
class HeatChart:
    """`values[row][column]`, the first row at the bottom; `low` and `high` end the colours."""

    title: str
    x_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float]]
    caption: Sequence[str]


def draw_heat(chart: HeatChart, path: Path) -> None:
    """Write the chart as PNG, atomically; numbers stand in the cells where there is room."""
    height = max(2.5, _CELL * len(chart.rows))
    below = _BELOW + _LETTER * max(map(len, chart.columns))
    with sheet(chart.title, chart.caption, path, height, below) as page:
        left = (page.text_width(chart.rows) + 16) / (WIDTH * 72)
        axes = page.axes(left, 0.9)
        values = np.array(chart.values)
        axes.grid(False)
        image = axes.imshow(values, cmap=_MAP, aspect="auto", origin="lower", vmax=1)
        axes.set_yticks(range(len(chart.rows)), chart.rows)
        axes.set_xticks(range(len(chart.columns)), chart.columns, rotation=90, fontsize=9)
        axes.set_xlabel(chart.x_label, color=GREY)
        axes.tick_params(length=0)
        if len(chart.columns) <= _WIDEST_NUMBERS:
            _write_numbers(axes, values, *image.get_clim())
        bar = page.figure.colorbar(image, cax=page.axes(0.915, 0.93))
        bar.outline.set_visible(False)


def _write_numbers(axes: Axes, values: Any, low: float, high: float) -> None:
    """Each cell's number, light on dark and dark on light."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value < (low + high) / 2
            colour = "white" if dark else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour
            )
