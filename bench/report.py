"""What the benchmarks found, as Markdown and as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.transforms import blended_transform_factory

from boomerang_core.files import write_text
from boomerang_core.report.charts.canvas import GREY, halo, sheet

_ROW = 0.21  # inches of a row of the picture
_LABELS = 0.42  # of the width
_EDGE = 0.014  # of the width, where the caption begins too: long titles have room from there
_BLUE = "#0072b2"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A ratio with its range: what is compared, on which work."""

    label: str
    median: float
    low: float
    high: float
    n: int

    def cells(self) -> str:
        """The row in Markdown."""
        return f"| {self.label} | {self.median:.2f} | {self.low:.2f}-{self.high:.2f} | {self.n} |"


@dataclass(frozen=True)
class Group:
    """Ratios that mean the same thing; above 1 is better for us."""

    title: str
    rows: tuple[Row, ...]
    source: Json


def write_report(found: Json, out: Path) -> None:
    """`report.md` and `report.png` in `out`, from the benchmarks' reports by name."""
    groups = [*_groups(found)]
    speeds = {name: report for name, report in found.items() if name.startswith("speed")}
    lines = [*_lines(groups, speeds)]
    sections = {
        "kv": _held,
        "bookkeeping": _beside,
        "changes": _changes,
        "processes": _processes,
    }
    for name, section in sections.items():
        lines += section(found[name]) if name in found else ()
    write_text(out / "report.md", "\n".join(lines) + "\n")
    if groups:
        draw(groups, out / "report.png")


_STUDENTS = {
    "full": "full student",
    "lowrank": "low-rank student",
    "merged": "low-rank student, merged",
}


def _groups(found: Json) -> Iterator[Group]:
    for name, report in found.items():
        what = f"{_STUDENTS.get(report.get('kind', ''))}, {report.get('dtype')}"
        if name.startswith("one-size"):
            title = f"One size: plain vLLM's time over ours, {what}"
            control = {"plain vLLM over itself": report.get("plain_over_itself", {})}
            yield Group(title, tuple(_rows(report["plain_over_ours"] | control)), report)
        if name.startswith("mixing"):
            sizes = ", ".join(report["sizes"])
            title = f"Mixed sizes {sizes}: the other way's time over ours, {what}"
            yield Group(title, tuple(_rows(report["others_over_mixed"])), report)


def _rows(table: Mapping[str, Mapping[str, Json]]) -> Iterator[Row]:
    for outer, ratios in table.items():
        for inner, ratio in ratios.items():
            yield Row(f"{outer}, {inner.replace('_', ' ')}", **ratio)


def _lines(groups: Sequence[Group], speeds: Json) -> Iterator[str]:
    yield "# Benchmarks of the engine"
    yield ""
    yield (
        "Ratios of times of the same work, pair by pair in one run: above 1 ours is "
        "faster.  Median, least and greatest, number of pairs."
    )
    for group in groups:
        yield f"\n## {group.title}\n"
        yield from ("| work | median | range | n |", "| --- | --- | --- | --- |")
        yield from (row.cells() for row in group.rows)
        yield f"\n{_where(group.source)}"
    for report in speeds.values():
        yield f"\n## Every size: {report['load']}\n"
        yield from ("| size | tokens/s | time over the floor |", "| --- | --- | --- |")
        for size, rate in report["tokens_per_second"].items():
            yield f"| `{size}` | {rate:.1f} | {report['over_floor'][size]:.2f} |"
        bandwidth = report["read_bytes_per_second"] / 1e9
        yield (
            f"\nFloor: bytes of weights and KV cache read, at the {bandwidth:.1f} GB/s that this "
            f"run measured. Medians of {report['n']}. {_where(report['provenance'])}"
        )


def _held(report: Json) -> Iterator[str]:
    mebibytes = report["kv_bytes"] >> 20
    yield f"\n## Tokens that {mebibytes} MiB of KV memory hold\n"
    yield from ("| | student's size | teacher's | ratio |", "| --- | --- | --- | --- |")
    for name, held in report["tokens_held"].items():
        counts = f"{held['student']:,} | {held['teacher']:,} | {held['ratio']:.2f}"
        yield f"| {name.replace('_', ' ')} | {counts} |"
    yield "\nSeconds with groups over seconds with one group, below 1 groups are faster:"
    yield from ("\n| work | median | range | n |", "| --- | --- | --- | --- |")
    for work, ratio in report["seconds_over_one_group"].items():
        yield Row(work, **ratio).cells()
    yield f"\n{_where(report)}"


def _beside(report: Json) -> Iterator[str]:
    yield "\n## What a step costs beside the model\n"
    yield "Milliseconds of the engine's thread, medians and ranges, with models that do nothing:\n"
    ways = list(dict.fromkeys(way for taken in report["step_ms"].values() for way in taken))
    yield f"| requests | {' | '.join(ways)} |"
    yield f"| --- |{' --- |' * len(ways)}"
    for requests, taken in report["step_ms"].items():
        cells = (_milliseconds(taken[way]) if way in taken else "" for way in ways)
        yield f"| {requests} | {' | '.join(cells)} |"
    yield f"\nn = {report['n']} rounds. {_where(report)}"


def _milliseconds(taken: Json) -> str:
    return f"{taken['median']:.2f} ({taken['low']:.2f}-{taken['high']:.2f})"


def _changes(report: Json) -> Iterator[str]:
    change = report["change"]
    low, high = change["range_ms"]
    held = change["resident_bytes"]
    yield f"\n## Sizes that differ, {report['dtype']}\n"
    yield (
        f"A change of size from one request to the next adds {change['added_ms']:.2f} ms "
        f"({low:.2f} to {high:.2f}, n = {change['ratio']['n']}); weights held before and after: "
        f"{held['before']:,} and {held['after']:,} bytes."
    )
    yield "\nSeconds for the same work with more sizes at once, over those with the fewest:\n"
    yield from ("| sizes | median | range | n |", "| --- | --- | --- | --- |")
    for count, ratio in report["live_over_fewest"].items():
        yield Row(count, **ratio).cells()
    yield f"\n{_where(report)}"


def _processes(report: Json) -> Iterator[str]:
    mode = f"{'compiled' if report['compiled'] else 'eager'}, {report['dtype']}"
    yield f"\n## One engine against a process for each of {', '.join(report['sizes'])}, {mode}\n"
    yield from ("| ours over theirs | median | range | n |", "| --- | --- | --- | --- |")
    for load, ratios in report["ours_over_theirs"].items():
        for name in ("throughput", "first_token_p95"):
            label = f"{name.replace('_', ' ')}, load {load}"
            yield Row(label, **ratios[name]).cells()
    yield (
        f"\nMemory of all processes (PSS), ours over theirs: {report['memory']['ratio']:.2f}. "
        f"Load 1 is {report['requests_per_second']:.2f} requests/s. {_where(report)}"
    )


def _where(report: Json) -> str:
    return f"`{report['command']}`; {report['hardware']}; {report['date']}; {report['git']}."


def draw(groups: Sequence[Group], path: Path) -> None:
    """Every ratio with its range, a line at 1; PNG, atomically."""
    height = _ROW * sum(len(group.rows) + 1.5 for group in groups)
    caption = sorted({_where(group.source).replace("`", "") for group in groups})
    with sheet(
        "Time of the other way over ours: above 1 ours is faster", caption, path, height
    ) as page:
        axes = page.axes(_LABELS, 0.97)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        place, ticks, labels = 0.0, [], []
        for group in groups:
            axes.text(
                _EDGE,
                place,
                group.title,
                transform=blended_transform_factory(page.figure.transFigure, axes.transData),
                fontsize=8,
                color=GREY,
                path_effects=halo(),
            )
            for row in group.rows:
                place += 1
                axes.plot([row.low, row.high], [place, place], color=_BLUE, linewidth=1)
                axes.plot(row.median, place, "o", color=_BLUE, markersize=4)
                ticks.append(place)
                labels.append(row.label)
            place += 1.5
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(ticks, labels, fontsize=8)
        axes.set_ylim(place - 0.5, -1)
