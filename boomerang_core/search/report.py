"""What a search found, as lines for people and as a record for programs.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boomerang_core.choices import compact
from boomerang_core.search.ladders import RatedLadder

if TYPE_CHECKING:
    from boomerang_core.search.layouts import Layout


def ladder_lines(ladders: Sequence[RatedLadder]) -> list[str]:
    """KL by depth, a column an order; then area, gap to the bound, models measured."""
    kl = [dict(zip(rated.layers, rated.kl, strict=True)) for rated in ladders]
    depths = sorted({layers for column in kl for layers in column})
    bound = best_bound(ladders)
    rows: list[tuple[str, Sequence[str]]] = [
        ("layers", [rated.order for rated in ladders]),
        *((str(depth), [_number(column.get(depth)) for column in kl]) for depth in depths),
        ("area", [_number(rated.area) for rated in ladders]),
        *([] if bound is None else [("gap", [_share(gap(r, bound)) for r in ladders])]),
        ("models", [str(rated.models) for rated in ladders]),
    ]
    columns = zip(*(row for _, row in rows), strict=True)
    widths = [max(8, *map(len, column)) for column in columns]
    lines = [
        " ".join(
            [f"{head:<6}", *(f"{cell:>{wide}}" for cell, wide in zip(row, widths, strict=True))]
        )
        for head, row in rows
    ]
    return [*lines, "KL to the teacher in nats a token; area: its mean over these depths"]


def best_bound(ladders: Sequence[RatedLadder]) -> float | None:
    """The highest area that no ladder goes below, where a search proved one."""
    return max((rated.bound for rated in ladders if rated.bound is not None), default=None)


def gap(rated: RatedLadder, bound: float | None) -> float | None:
    """The share of a ladder's area that a better one could save at most; 0 proves it the best."""
    if bound is None or not rated.one_by_one:
        return None
    return max(0.0, rated.area - bound) / rated.area if rated.area else 0.0  # 0.0: rounding


def ladder_record(ladders: Sequence[RatedLadder]) -> dict[str, Any]:
    """The same as JSON, with the steps of each ladder as `make --ladder` reads them."""
    bound = best_bound(ladders)
    rows = [
        {
            "order": rated.order,
            "ladder": rated.ladder.to_json(),
            "sizes": [
                {"layers": layers, "kl": round(kl, 6)}
                for layers, kl in zip(rated.layers, rated.kl, strict=True)
            ],
            "area": round(rated.area, 6),
            "gap": gap(rated, bound),
            "models": rated.models,
        }
        for rated in ladders
    ]
    return {"ladders": rows, "bound": None if bound is None else round(bound, 6)}


def layout_lines(layout: Layout) -> list[str]:
    """A line a block of several layers; then what they add up to, and the options of `make`."""
    lines = [f"{'block':>8} {'kept':>4} {'damage':>8}" + f" {'cosine':>7}" * bool(layout.cosine)]
    for block in layout.block_map:
        if len(block) > 1:
            cosine = f" {layout.cosine[block]:7.4f}" if layout.cosine else ""
            run = f"{block.start}-{block.stop - 1}"
            lines.append(f"{run:>8} {block.kept:>4} {layout.damage[block]:8.4f}{cosine}")
    singles = [str(block.start) for block in layout.block_map if len(block) == 1]
    record = layout_record(layout)
    options = f"--layout '{compact(record['layout'])}' --kept '{compact(record['kept'])}'"
    return [
        *lines,
        f"{len(layout.block_map)} layers, damages add up to {layout.total:.4f}; "
        f"KL of the student before distillation {layout.kl:.4f} nats a token",
        f"make it: {options}",
        *(
            [f"layers that it can share with the teacher: --shared {','.join(singles)}"]
            * bool(singles)
        ),
    ]


def layout_record(layout: Layout) -> dict[str, Any]:
    """The same as JSON, with every candidate that was measured."""
    measured = [
        {
            "layers": list(block.layers),
            "kept": block.kept,
            "damage": round(damage, 6),
            **({"cosine": round(layout.cosine[block], 6)} if block in layout.cosine else {}),
        }
        for block, damage in layout.damage.items()
    ]
    return {
        "layout": [list(block.layers) for block in layout.block_map],
        "kept": [block.kept for block in layout.block_map],
        "damage": round(layout.total, 6),
        "kl_before_distillation": round(layout.kl, 6),
        "candidates": measured,
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
