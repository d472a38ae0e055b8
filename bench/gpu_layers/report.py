"""The report in Markdown: one table of steps and one of ratios per shape and group."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_GUIDE = """\
`floor` is the longer of the bytes that the step must read over the measured bandwidth and its
operations over the measured matrix rate; `×` is the median over it.  `in turn` runs the three sizes
one after another, each with its third of the rows.  `teacher` has all rows at the largest size.  A
merged low-rank student has the shapes of `full`.  Medians (minimum–maximum); a ratio is of medians,
its range of rounds."""


def markdown(result: Json) -> str:
    """The whole report."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Json) -> Iterator[str]:
    ceilings = result["ceilings"]
    yield "# Routed layers at Qwen3 shapes"
    yield ""
    yield (
        f"{result['device']}, torch {result['torch']}, {result['date']}; "
        f"`{result['command']}`; weights {result['dtype']}, random."
    )
    yield (
        f"Measured ceilings: read {ceilings['read'] / 1e12:.3f} TB/s, copy (read + written) "
        f"{ceilings['copy'] / 1e12:.3f} TB/s, matrix product "
        f"{ceilings['flops'] / 1e12:.1f} TFLOP/s."
    )
    yield f"Largest difference in the checks: {max(result['checks'].values()):.1e} (float32)."
    yield f"\n{_GUIDE}"
    for shape in result["shapes"]:
        yield from _shape(shape, result["modes"])


def _shape(shape: Json, modes: list[str]) -> Iterator[str]:
    yield f"\n## {shape['shape']}\n"
    yield from _memory(shape["memory"])
    for group in shape["groups"]:
        n = group["cells"][0][modes[0]]["n"]
        yield (
            f"\n### {group['phase']}, {group['rows']} rows × {group['tokens']} tokens, "
            f"context {group['context']} (n = {n})\n"
        )
        yield from _table(
            ["step", "rows", "layers", "floor ms", *(f"{mode} ms | ×" for mode in modes)],
            [_step(row, modes) for row in group["cells"]],
        )
        yield ""
        yield from _table(
            ["ratio", *modes],
            [
                [f"{r['of']} ÷ {r['to']}", *(_spread(r[m], "") for m in modes)]
                for r in group["ratios"]
            ],
        )


def _memory(memory: Json) -> Iterator[str]:
    def row(kind: str) -> list[str]:
        measured = memory.get(f"{kind}_resident_over_teacher")
        weights = memory[f"{kind}_weights_computed"]
        return [
            kind,
            f"{memory[f'{kind}_bytes'] / 1e9:.3f}" if measured else "–",
            f"{weights / 1e9:.4f}",
            f"{measured:.4f}" if measured else "–",
            f"{memory[f'{kind}_resident_over_teacher_computed']:.4f}",
        ]

    teacher = memory["teacher_weights_computed"] / 1e9
    yield f"Teacher: {teacher:.4f} G weights, {memory['teacher_bytes'] / 1e9:.3f} GB measured.\n"
    header = ["student", "GB added", "G weights added, as stored", "all sizes ÷ teacher, measured"]
    yield from _table([*header, "computed (least)"], [row(kind) for kind in ("full", "lowrank")])


def _step(row: Json, modes: list[str]) -> list[str]:
    floor = f"{row['floor_ms']:.3f} ({row['floor_is']})"
    timed = [f"{_spread(row[m], '_ms')} | {row[m]['over_floor']:.2f}" for m in modes]
    return [row["step"], str(row["rows"]), row["layers"], floor, *timed]


def _spread(summary: Json, unit: str) -> str:
    median, low, high = (summary[name + unit] for name in ("median", "min", "max"))
    return f"{median:.3f} ({low:.3f}–{high:.3f})"


def _table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    head = f"| {' | '.join(header)} |"
    yield head
    yield "| " + " | ".join(["---"] * (head.count("|") - 1)) + " |"
    for row in rows:
        yield f"| {' | '.join(row)} |"
