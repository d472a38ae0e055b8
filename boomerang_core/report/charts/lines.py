"""Lines through points, each named where it starts or ends, at most seven.

Colours are Okabe and Ito's and a grey; marks differ in shape too.  Names are in a darker shade of
their line, so that they can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from boomerang_core.errors import SettingsError
from boomerang_core.report.charts.canvas import (
    DPI,
    GREY,
    LEFT,
    POINTS,
    WIDTH,
    Sheet,
    halo,
    near,
    number,
    sheet,
    spread,
)

BLUE = "#0072B2"
MOST_LINES = 7
_COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
_MARKS = "oD^vPX<"
_COMPARED = (GREY, "s")
_NAME_GAP = 15  # points from one name's middle to the next
_NAME_PAD = 10  # points between a name and its line
_BAR_GAP = 1.4  # points between the error bars of lines at the same x: still on their marks
_LEADER = {"arrowstyle": "-", "lw": 0.6, "shrinkA": 1, "shrinkB": 3}
_HEIGHT = 3.6  # inches
_SHARES = (0.0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # ticks of a square-root scale


@dataclass(frozen=True)
class Line:
    """A named line through points; `filled` says which are drawn solid, `errors` half a bar each.

    `plain` is what others are compared with: grey squares.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    filled: Sequence[bool] | None = None
    errors: Sequence[float] | None = None
    plain: bool = False


@dataclass(frozen=True)
class LinesChart:
    """Lines over one pair of axes, the first one foremost.

    `names` says at which end of the lines they stand: `start` or `end`.  `end_label` names the
    point where all end.  `scale` of y: `linear` and `root` begin at zero, `log` does not, and
    `near` is linear around the values and their errors.
    """

    title: str
    x_label: str
    lines: Sequence[Line]
    caption: Sequence[str]
    end_label: str = ""
    names: str = "start"
    scale: str = "linear"
    log_x: bool = False


def draw_lines(chart: LinesChart, path: Path) -> None:
    """Write the chart as PNG, atomically.  Raises `SettingsError` for more than seven lines."""
    if len(chart.lines) > MOST_LINES:
        raise SettingsError(
            f"{path.name} can show {MOST_LINES} ladders or curves at most, not {len(chart.lines)}"
        )
    with sheet(chart.title, chart.caption, path, _HEIGHT) as page:
        axes = _axes(page, chart)
        middle = (len(chart.lines) - 1) / 2
        for place, (line, style) in enumerate(zip(chart.lines, styles(chart.lines), strict=True)):
            aside = (place - middle) * _BAR_GAP
            draw_line(axes, line, *style, foremost=place == 0, aside=aside)
        _name_lines(axes, chart)
        if chart.end_label:
            _name_end(axes, chart)


def styles(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Colour and mark of each line."""
    free = iter(zip(_COLOURS, _MARKS, strict=True))
    return [_COMPARED if line.plain else next(free) for line in lines]


def draw_line(
    axes: Axes, line: Line, colour: str, mark: str, foremost: bool = True, aside: float = 0.0
) -> None:
    """One line with its marks, and error bars where it has them, some points `aside` of them."""
    filled = line.filled or [True] * len(line.x)
    faces = [colour if solid else "white" for solid in filled]
    depth, size, width = (4, 36, 1.8) if foremost else (3, 20, 1.2)
    axes.plot(line.x, line.y, color=colour, lw=width, zorder=depth)
    axes.scatter(
        line.x, line.y, size, faces, marker=mark, ec=colour, clip_on=False, zorder=depth + 0.5
    )
    if line.errors is not None:
        page = axes.get_figure(root=True)
        assert page is not None
        shift = ScaledTranslation(aside / POINTS, 0, page.dpi_scale_trans)
        low, high = np.subtract(line.y, line.errors), np.add(line.y, line.errors)
        moved = axes.transData + shift
        axes.vlines(line.x, low, high, colour, lw=1, transform=moved, clip_on=False)


def _axes(page: Sheet, chart: LinesChart) -> Axes:
    """Axes with room for the names on their side and for the end label on the right."""
    names = page.text_width([line.label for line in chart.lines]) + 2 * _NAME_PAD
    beyond = [chart.end_label] if chart.names == "start" else [line.label for line in chart.lines]
    right = 1 - (page.text_width(beyond) + 2 * _NAME_PAD) / (WIDTH * POINTS)
    axes = page.axes(LEFT, right)
    axes.set_xlabel(chart.x_label, color=GREY)
    y_axis(axes, [y for line in chart.lines for y in _reach(line)], chart.scale)
    left = page.clear_of_ticks(axes)
    xs = [x for line in chart.lines for x in line.x]
    room = names / ((right - left) * WIDTH * POINTS) if chart.names == "start" else 0.03
    _x_axis(axes, min(xs), max(xs), room, chart.log_x)
    return axes


def _reach(line: Line) -> list[float]:
    """The ends of its error bars; without them, its values."""
    errors = line.errors or [0.0] * len(line.y)
    ends = ((y - error, y + error) for y, error in zip(line.y, errors, strict=True))
    return [end for both in ends for end in both]


def _x_axis(axes: Axes, low: float, high: float, room: float, log: bool) -> None:
    """From `low` to `high` in all but the first `room` of the width; ticks only there."""
    if log:
        axes.set_xscale("log")
        axes.set_xlim(low * (low / high) ** (room / (1 - room)), high)
        axes.xaxis.set_major_locator(LogLocator(subs=_log_steps(30 * high / low)))  # side by side
    else:
        axes.set_xlim(low - (high - low) * room / (1 - room), high)
    axes.xaxis.set_minor_locator(NullLocator())
    inside = [tick for tick in axes.get_xticks() if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_major_formatter(FuncFormatter(number))


def y_axis(axes: Axes, values: Sequence[float], scale: str) -> None:
    """Limits and ticks for these values: from zero, logarithmic, or near to them."""
    low, high = min(values), max(values)
    if scale == "log":
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.25)
        steps = _log_steps(high / low)
        wide = high / low >= 4
        axes.yaxis.set_major_locator(LogLocator(subs=steps) if wide else MaxNLocator(5))
        axes.yaxis.set_minor_locator(NullLocator())
    elif scale == "near":
        axes.set_ylim(near(low, high, 0.08))
    else:
        if scale == "root":
            axes.set_yscale("function", functions=(_root, np.square))
            axes.yaxis.set_major_locator(FixedLocator([t for t in _SHARES if t <= high * 1.08]))
        axes.set_ylim(0, high * 1.08 or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(number))


def _log_steps(ratio: float) -> tuple[int, ...]:
    """Ticks in each power of ten, few enough to stand apart."""
    return (1, 2, 5) if ratio <= 1000 else (1, 3) if ratio <= 1e5 else (1,)


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _name_lines(axes: Axes, chart: LinesChart) -> None:
    """Each line's name in a column beside all lines, as near to its own as the others allow."""
    end = 0 if chart.names == "start" else -1
    places = [_place(axes, line, end) for line in chart.lines]
    box = axes.get_window_extent()
    low, high = box.y0 * POINTS / DPI + _NAME_GAP / 2, box.y1 * POINTS / DPI
    heights = spread([y for _, y in places], _NAME_GAP, low, high)
    xs = [x for x, _ in places]
    column = max(xs) + _NAME_PAD if end else min(xs) - _NAME_PAD
    for line, (x, y), height, (colour, _) in zip(
        chart.lines, places, heights, styles(chart.lines), strict=True
    ):
        point = (line.x[end], line.y[end])
        _write(axes, line.label, point, (column - x, height - y), colour)


def _name_end(axes: Axes, chart: LinesChart) -> None:
    """The name of the point where the lines end, beyond all of them."""
    line = chart.lines[0]
    edge = axes.get_window_extent().x1 * POINTS / DPI
    beyond = edge - _place(axes, line, -1)[0] + _NAME_PAD
    _write(axes, chart.end_label, (line.x[-1], line.y[-1]), (beyond, 0), BLUE)


def _place(axes: Axes, line: Line, end: int) -> tuple[float, float]:
    """Where the line's first or last point is on the sheet, in points."""
    x, y = axes.transData.transform((line.x[end], line.y[end])) * POINTS / DPI
    return float(x), float(y)


def _write(
    axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], colour: str
) -> None:
    """A name at an offset in points; a thin line leads to its point where that is not beside."""
    left = offset[0] < 0
    far = abs(offset[1]) > _NAME_GAP / 3 or abs(offset[0]) > 2 * _NAME_PAD
    leader = {**_LEADER, "color": colour, "relpos": (1, 0.5) if left else (0, 0.5)}
    axes.annotate(
        text,
        point,
        offset,
        textcoords="offset points",
        color=_darker(colour),
        ha="right" if left else "left",
        va="center",
        annotation_clip=False,
        arrowprops=leader if far else None,
        path_effects=halo(),
        zorder=6,
    )


def _darker(colour: str) -> tuple[float, ...]:
    return tuple(0.75 * part for part in to_rgb(colour))
