"""The sheet that every chart is drawn on: title above, caption below, one style, readable 800 px
wide.

The same chart gives the same bytes: matplotlib's defaults, its own font, no date.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke

from boomerang_core.files import write_atomically

GREY, PALE = "#6b6b6b", "#e3e3e3"
WIDTH, TITLE_HEIGHT, LINE_HEIGHT = 8.0, 0.45, 0.17  # inches
LEFT, TICKS_HEIGHT = 0.07, 0.68  # a share of the width; inches
POINTS = 72  # in an inch
DPI = 200
_CAPTION_LETTERS = 120
_TICK_ROOM = 16  # points from the sheet's edge and to the axes
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
class Sheet:
    """A figure of fixed width with a title and a caption; its charts take `height` inches."""

    figure: Figure
    height: float
    below: float

    def axes(self, left: float, right: float, bottom: float = 0.0, top: float = 1.0) -> Axes:
        """Axes over shares of the sheet: of its width, and of the charts' height."""
        total = TITLE_HEIGHT + self.height + self.below
        low = (self.below + bottom * self.height) / total
        high = (self.below + top * self.height) / total
        return self.figure.add_axes((left, low, right - left, high - low))

    def clear_of_ticks(self, axes: Axes) -> float:
        """Move the axes' left edge so that the numbers beside it stay on the sheet; the edge."""
        low, high = axes.get_ylim()
        ticks = [number(tick) for tick in axes.get_yticks() if low <= tick <= high]
        box = axes.get_position()
        left: float = max(box.x0, (self.text_width(ticks) + _TICK_ROOM) / (WIDTH * POINTS))
        axes.set_position((left, box.y0, box.x1 - left, box.height))
        return left

    def text_width(self, texts: Sequence[str]) -> float:
        """The width in points of the widest text."""
        written = [self.figure.text(0, 0, text) for text in texts]
        pixels = max((text.get_window_extent().width for text in written), default=0.0)
        for text in written:
            text.remove()
        return pixels * POINTS / DPI


@contextmanager
def sheet(
    title: str, caption: Sequence[str], path: Path, height: float, below: float = TICKS_HEIGHT
) -> Iterator[Sheet]:
    """A sheet that is written to `path` as PNG, atomically, when all is drawn.

    `below` is the room under the charts for ticks and a label, in inches.
    """
    with matplotlib.style.context(["default", _STYLE]):
        lines = [line for part in caption for line in _wrapped(part)]
        below += LINE_HEIGHT * len(lines)
        total = TITLE_HEIGHT + height + below
        figure = Figure(figsize=(WIDTH, total), dpi=DPI)
        FigureCanvasAgg(figure)  # texts can then be measured
        figure.text(0.014, 1 - 0.1 / total, title, va="top", fontsize=12)
        figure.text(0.014, 0.07 / total, "\n".join(lines), va="bottom", fontsize=8, color=GREY)
        yield Sheet(figure, height, below)
        write_atomically(path, _saving(figure))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _CAPTION_LETTERS, break_on_hyphens=False)  # options stay whole


def _saving(figure: Figure) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    return write


def near(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits a share of the spread beyond values; below zero only where a value is."""
    margin = share * (high - low) or 0.1
    bottom = low - margin
    return (bottom if low < 0 else max(0.0, bottom)), high + margin


def halo() -> list[AbstractPathEffect]:
    """A white edge that keeps grid lines off a text."""
    return [withStroke(linewidth=3, foreground="white")]


def number(value: float, _place: int | None = None) -> str:
    """A tick's text: `0.5`, `1,500`, `2,000,000`."""
    return f"{value:,g}" if abs(value) < 1e6 else f"{value:,.0f}"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near as can be to those wanted, in their order, at least `gap` apart.

    They stay between `low` and `high` where there is room.  (Least squares: pool neighbours that
    are too close.)
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[list[float]] = []
    for rank, i in enumerate(order):
        pools.append([wanted[i] - rank * gap])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    top = high - (len(wanted) - 1) * gap
    flat = [max(low, min(_mean(pool), top)) for pool in pools for _ in pool]
    places = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        places[i] = flat[rank] + rank * gap
    return places


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
