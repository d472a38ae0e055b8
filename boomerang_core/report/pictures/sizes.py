"""The pictures with a dot for every size: quality against parameters, bytes and speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from boomerang_core.compare.comparison import Point, Series
from boomerang_core.report.charts.lines import Line, LinesChart, draw_lines
from boomerang_core.report.findings import Findings
from boomerang_core.report.pictures.picture import Picture, commands, where
from boomerang_core.sizes import Quality, format_bytes

_ROOT_ABOVE = 5
"""How many times our highest value the highest may be before a linear scale flattens our line."""


@dataclass(frozen=True)
class _Measure:
    """A quality: its title, its value, its digits in a label and in words."""

    title: str
    value: Callable[[Quality], float]
    digits: str
    exact: str
    log: bool = False


_KL = _Measure("KL to the teacher, nats per token", lambda quality: quality.kl, ".2f", ".3f")
_PERPLEXITY = _Measure("Perplexity", lambda quality: quality.perplexity, ".1f", ",.1f", log=True)


def draw_quality(findings: Findings, out: Path) -> Picture:
    """KL to the teacher against parameters."""
    chart = _chart(findings, _KL, "parameters, millions", lambda point: point.params / 1e6)
    draw_lines(chart, out / "quality.png")
    table = findings.family.table
    ends = f"nats per token at {table.student.id}", f"at {table.teacher.id}"
    alt = f"KL to the teacher {_words(findings, _KL, *ends)}"
    return Picture("quality.png", "KL to the teacher against parameters", alt)


def draw_perplexity(findings: Findings, out: Path) -> Picture:
    """Perplexity against the standalone footprint."""
    tokens = findings.family.footprint_tokens
    label = f"footprint, MiB: weights and the KV cache of {tokens:,} tokens"
    chart = _chart(findings, _PERPLEXITY, label, lambda point: findings.footprint(point) / 2**20)
    draw_lines(chart, out / "perplexity.png")
    points = findings.series[0].points
    smallest, largest = (format_bytes(findings.footprint(points[end])) for end in (0, -1))
    ends = f"at a footprint of {smallest}", f"at {largest}"
    alt = f"Perplexity {_words(findings, _PERPLEXITY, *ends)}"
    return Picture("perplexity.png", "Perplexity against the standalone footprint", alt)


def draw_speed(findings: Findings, out: Path) -> Picture:
    """KL to the teacher against the speed of each size that was timed."""
    speed = findings.speed
    assert speed is not None
    timed = [row for row in findings.family.rows if row.id in speed.tokens_per_second]
    timed.sort(key=lambda row: speed.tokens_per_second[row.id])
    rates = [speed.tokens_per_second[row.id] for row in timed]
    kls = [findings.series[0].points[row.size].quality.kl for row in timed]
    slow, fast = (f"{timed[end].id}, {kls[end]:.2f}" for end in (0, -1))
    chart = LinesChart(
        title=_KL.title,
        x_label=f"tokens per second: {speed.load}",
        lines=[Line(slow, rates, kls, [row.offered for row in timed])],
        caption=[*_how_measured(findings), f"speed: {where(speed.provenance)}"],
        end_label=fast,
    )
    draw_lines(chart, out / "speed.png")
    alt = (
        f"The slowest, {timed[0].id}, has {rates[0]:,.1f} tokens per second and a KL to the "
        f"teacher of {kls[0]:.3f}; the fastest, {timed[-1].id}, {rates[-1]:,.1f} and {kls[-1]:.3f}."
    )
    return Picture("speed.png", "KL to the teacher against speed", alt)


def _chart(
    findings: Findings, measure: _Measure, x_label: str, place: Callable[[Point], float]
) -> LinesChart:
    """A line for every series, ours first."""
    lines = [_line(findings, series, measure, place) for series in findings.series]
    highest = [max(line.y) for line in lines]
    root = max(highest) > _ROOT_ABOVE * highest[0]
    scale = "log" if measure.log else "root" if root else "linear"
    words = {"log": ", on a logarithmic scale", "root": ", on a square-root scale", "linear": ""}
    last = f",\n{lines[0].y[-1]:{measure.digits}}" if measure.log else ""
    return LinesChart(
        title=measure.title + words[scale],
        x_label=x_label,
        lines=lines,
        caption=_how_measured(findings),
        end_label=f"teacher{last}",
        scale=scale,
    )


def _line(
    findings: Findings, series: Series, measure: _Measure, place: Callable[[Point], float]
) -> Line:
    y = [measure.value(point.quality) for point in series.points]
    filled = None
    if series is findings.series[0]:
        filled = [row.offered for row in findings.family.rows]
    return Line(
        f"{series.name}, {_short(y[0], measure.digits)}",
        [place(point) for point in series.points],
        y,
        filled,
        plain=series.kind == "naive",
    )


def _short(value: float, digits: str) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:{digits}}"


def _words(findings: Findings, measure: _Measure, at_first: str, at_last: str) -> str:
    """How our line goes, and how every other compares; the teacher, the same in all, left out."""
    ours, *others = findings.series
    first, last = (measure.value(ours.points[end].quality) for end in (0, -1))
    message = (
        f"goes from {first:{measure.exact}} {at_first} to {last:{measure.exact}} {at_last}, "
        "the teacher"
    )
    return "; ".join([message, *(_against(ours, other, measure) for other in others)]) + "."


def _against(ours: Series, other: Series, measure: _Measure) -> str:
    pairs = [
        (measure.value(mine.quality), measure.value(point.quality))
        for mine in ours.points[:-1]
        if (point := other.at(mine.layers)) is not None
    ]
    start = f"{other.name} starts at {measure.value(other.points[0].quality):{measure.exact}}"
    if not pairs:
        return start
    worse = sum(theirs > mine for mine, theirs in pairs)
    return f"{start} and is worse at {worse} of the {len(pairs)} sizes below the teacher"


def _how_measured(findings: Findings) -> list[str]:
    """The lines under a picture of sizes: n, text, machine, date; the commands."""
    rows, notes = findings.rows, findings.notes
    first = f"n = {rows['n']:,} tokens of {rows['text']}"
    if not all(row.offered for row in findings.family.rows):
        first += "; hollow dots: sizes not offered"
    return [f"{first}; {where(notes[0])}", *commands(notes)]
