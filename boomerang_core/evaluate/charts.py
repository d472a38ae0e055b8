"""The pictures of a report: few lines, each named where it starts or ends, readable 800 px wide.

Colours are Okabe and Ito's blue and a grey, which differ in lightness too; the marks differ in
shape.  The same series give the same bytes: matplotlib's defaults, its own font, no date.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from boomerang_core.provenance import write_atomically

BLUE, GREY, PALE = "#0072B2", "#6b6b6b", "#e3e3e3"
WIDTH, AXES_HEIGHT, TITLE_HEIGHT, TICKS_HEIGHT, LINE_HEIGHT = 8.0, 3.6, 0.45, 0.68, 0.17  # inches
DPI = 200
_CAPTION_LETTERS = 120
_STYLE = {
    "font.size": 11,
    "text.parse_math": False,  # a caption quotes commands: $OUT is no formula
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PALE,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "ytick.left": False,
}


@dataclass(frozen=True)
class Series:
    """A named line through points; `filled` says which of the points are drawn solid."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    filled: Sequence[bool]


@dataclass(frozen=True)
class Cloud:
    """Points and the running mean through them, as `running_mean` gives it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    mean_x: Sequence[float]
    mean_y: Sequence[float]


@dataclass(frozen=True)
class SizesChart:
    """One quality of every size; the grey line, where there is one, is what to compare with."""

    title: str
    x_label: str
    ours: Series
    naive: Series | None
    end_label: str
    caption: Sequence[str]
    log_y: bool = False


@dataclass(frozen=True)
class TrainingChart:
    """A quantity of training steps against tokens: one cloud, or two."""

    title: str
    x_label: str
    clouds: Sequence[Cloud]
    caption: Sequence[str]


def draw_sizes(chart: SizesChart, path: Path) -> None:
    """Write the picture of a ladder as PNG, atomically."""
    with _picture(chart, path, right=0.885) as axes:
        both = [(chart.ours, BLUE, "o")] + ([(chart.naive, GREY, "s")] if chart.naive else [])
        for series, colour, marker in reversed(both):
            _dotted_line(axes, series, colour, marker)
        values = [value for series, _, _ in both for value in series.y]
        _y_axis(axes, min(values), max(values), chart.log_y)
        xs = [value for series, _, _ in both for value in series.x]
        axes.set_xlim(min(xs) - 0.03 * (max(xs) - min(xs)), max(xs))
        for (series, colour, _), above in zip(both, _above(axes, both), strict=True):
            offset = (-4, 9) if above else (-4, -9)
            baseline = "bottom" if above else "top"
            _name(axes, series.label, (series.x[0], series.y[0]), offset, colour, baseline)
        end = (chart.ours.x[-1], chart.ours.y[-1])
        _name(axes, chart.end_label, end, (10, 0), BLUE, "center")


def draw_training(chart: TrainingChart, path: Path) -> None:
    """Write the picture of a training run as PNG, atomically: raw points pale, their mean clear."""
    with _picture(chart, path, right=0.83) as axes:
        for cloud, colour, marker in zip(chart.clouds, (BLUE, GREY), ("o", "s"), strict=False):
            axes.plot(cloud.x, cloud.y, marker, color=colour, alpha=0.35, ms=3.5, mew=0)
            axes.plot(cloud.mean_x, cloud.mean_y, color=colour, lw=2)
        right = max(cloud.x[-1] for cloud in chart.clouds)
        axes.set_xlim(0, right)
        _y_axis(axes, 0, max(max(cloud.y) for cloud in chart.clouds), log=False)
        ends = [cloud.mean_y[-1] for cloud in chart.clouds]
        close = max(ends) - min(ends) < 0.15 * axes.get_ylim()[1]
        for cloud, colour, end in zip(chart.clouds, (BLUE, GREY), ends, strict=False):
            apart = "bottom" if end == max(ends) else "top"
            _name(axes, cloud.label, (right, end), (8, 0), colour, apart if close else "center")


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


@contextmanager
def _picture(chart: SizesChart | TrainingChart, path: Path, right: float) -> Iterator[Axes]:
    """Axes with title and caption around them, written to `path` at the end."""
    with matplotlib.style.context(["default", _STYLE]):
        caption = [line for part in chart.caption for line in textwrap.wrap(part, _CAPTION_LETTERS)]
        below = TICKS_HEIGHT + LINE_HEIGHT * len(caption)
        height = TITLE_HEIGHT + AXES_HEIGHT + below
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        axes = figure.add_axes((0.07, below / height, right - 0.07, AXES_HEIGHT / height))
        figure.text(0.014, 1 - 0.1 / height, chart.title, va="top", fontsize=12)
        axes.set_xlabel(chart.x_label, color=GREY)
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        text = "\n".join(caption)
        figure.text(0.014, 0.07 / height, text, va="bottom", fontsize=8, color=GREY)
        yield axes
        write_atomically(path, _saving(figure))


def _saving(figure: Figure) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    return write


def _dotted_line(axes: Axes, series: Series, colour: str, marker: str) -> None:
    faces = [colour if filled else "white" for filled in series.filled]
    axes.plot(series.x, series.y, color=colour, lw=1.6, zorder=3)
    axes.scatter(
        series.x, series.y, 36, faces, marker=marker, edgecolors=colour, clip_on=False, zorder=4
    )


def _y_axis(axes: Axes, low: float, high: float, log: bool) -> None:
    """From zero, or logarithmic with ticks that people count in."""
    if log:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.25)
        wide = high / low >= 4
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
    else:
        axes.set_ylim(0, high * 1.08 or 1)


def _number(value: float, _place: int | None) -> str:
    return f"{value:,g}" if value < 1e6 else f"{value:,.0f}"


def _above(axes: Axes, both: Sequence[tuple[Series, str, str]]) -> list[bool]:
    """Whether each line's name stands above its start: the lower one's, only where there is room.

    Lines of quality fall, so a name above its line's start is clear of its own line.
    """
    places = [axes.transAxes.inverted().transform(_on_screen(axes, s))[1] for s, _, _ in both]
    highest = max(places)
    return [place == highest or highest - place > 0.12 for place in places]


def _on_screen(axes: Axes, series: Series) -> Any:
    return axes.transData.transform((series.x[0], series.y[0]))


def _name(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float],
    colour: str,
    va: str,
) -> None:
    """Write a line's name, in its colour, over a white edge that keeps grid lines off it."""
    axes.annotate(
        text,
        point,
        offset,
        textcoords="offset points",
        color=colour,
        va=va,
        annotation_clip=False,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=5,
    )
