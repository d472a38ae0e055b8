"""Small charts of one line each, two beside each other, all with the same x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from boomerang_core.report.charts.canvas import GREY, LEFT, near, number, sheet
from boomerang_core.report.charts.lines import BLUE, Line, draw_line

_COLUMNS, _BETWEEN, _RIGHT = 2, 0.095, 0.98  # shares of the width
_ROW = 2.3  # inches, of which the chart takes
_CHART, _TITLE = 1.55, 0.08  # and its title stands so far above
_MARGIN = 0.2  # of the spread of the values, above and below


@dataclass(frozen=True)
class Facet:
    """One line under its own title."""

    title: str
    line: Line


@dataclass(frozen=True)
class FacetsChart:
    """Facets in reading order."""

    title: str
    x_label: str
    facets: Sequence[Facet]
    caption: Sequence[str]


def draw_facets(chart: FacetsChart, path: Path) -> None:
    """Write the chart as PNG, atomically."""
    rows = math.ceil(len(chart.facets) / _COLUMNS)
    width = (_RIGHT - LEFT - _BETWEEN * (_COLUMNS - 1)) / _COLUMNS
    with sheet(chart.title, chart.caption, path, rows * _ROW, below=0.15) as page:
        for place, facet in enumerate(chart.facets):
            row, column = divmod(place, _COLUMNS)
            left = LEFT + column * (width + _BETWEEN)
            top = 1 - (row + 0.16) / rows
            axes = page.axes(left, left + width, top - _CHART / (rows * _ROW), top)
            _draw(axes, facet)
            if place + _COLUMNS >= len(chart.facets):
                axes.set_xlabel(chart.x_label, color=GREY)


def _draw(axes: Axes, facet: Facet) -> None:
    line = facet.line
    draw_line(axes, line, BLUE, "o", foremost=False)  # small dots, so that the bars show
    errors = line.errors or [0.0] * len(line.y)
    low = min(y - error for y, error in zip(line.y, errors, strict=True))
    high = max(y + error for y, error in zip(line.y, errors, strict=True))
    axes.set_ylim(near(low, high, _MARGIN))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(number))
    axes.set_title(facet.title, loc="left", fontsize=11, color="black")
