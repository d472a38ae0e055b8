"""What it costs that requests differ in size.

    python -m bench.changes FAMILY [--pairs 7] [--dtype float32] [--out FILE]

* `change`: requests one after another, student and teacher in turn, against the same requests
  with all students first.  Milliseconds added by each change of size, and the bytes of weights
  that are held before and after;
* `live`: the same number of requests at once, spread over 3, over 7 and over all sizes.  Seconds
  over those with 3, pair by pair, each divided by the parameters that its tokens ran through.

Prints JSON.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.engines import Engine, Request, routed_engine
from bench.pairs import Ratio, time_in_turn
from bench.run import add_common, add_dtype, finish, spread
from bench.traffic import LIMITS, Batch
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family

ONE = Batch(requests=1, prompt=4, tokens=4)
REQUESTS = 16
LIVE = Batch(requests=42, prompt=4, tokens=12)


def change(engine: Engine, top: int, options: argparse.Namespace) -> dict[str, Any]:
    """Sizes that change with every request, and sizes that change once."""
    prompt = ONE.prompts(options.vocabulary, seed=0)[0]
    sizes = [0, top] * (REQUESTS // 2)

    def seconds(order: list[int]) -> float:
        requests: list[Request] = [(size, prompt) for size in order]
        return sum(engine.seconds([request], ONE.tokens) for request in requests)

    before = engine.resident_bytes
    ways = {"changing": partial(seconds, sizes), "sorted": partial(seconds, sorted(sizes))}
    taken = time_in_turn(ways, options.pairs)
    changes = REQUESTS - 1 - 1  # those of `changing`, without the one that `sorted` has
    added = [
        1000 * (a - b) / changes for a, b in zip(taken["changing"], taken["sorted"], strict=True)
    ]
    return {
        "added_ms": round(statistics.median(added), 3),
        "range_ms": [round(min(added), 3), round(max(added), 3)],
        "resident_bytes": {"before": before, "after": engine.resident_bytes},
        "ratio": asdict(Ratio.of(taken["changing"], taken["sorted"])),
    }


def live(engine: Engine, family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """The same number of requests over more and more sizes."""
    count = len(family.rows)
    spreads = {str(n): spread(count, n) for n in (3, 7) if n < count} | {"all": [*range(count)]}
    params = [row.params for row in family.rows]

    def way(sizes: list[int]) -> float:
        requests = LIVE.at(sizes, options.vocabulary, seed=0)
        work = sum(params[size] for size, _ in requests if size is not None)
        return engine.seconds(requests, LIVE.tokens) / work

    taken = time_in_turn(
        {name: partial(way, sizes) for name, sizes in spreads.items()}, options.pairs
    )
    base = next(iter(taken))
    return {name: asdict(Ratio.of(taken[name], taken[base])) for name in taken if name != base}


def run(family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """Both."""
    engine = routed_engine(family, **LIMITS, dtype=options.dtype)
    return {
        "family": family.name,
        "kind": family.design.kind.value,
        "change": change(engine, len(family.rows) - 1, options),
        "live_over_fewest": live(engine, family, options),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_common(parser)
    add_dtype(parser)
    options = parser.parse_args()
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
