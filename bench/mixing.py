"""Requests of several sizes in one engine: mixed steps against every other way to serve them.

    python -m bench.mixing FAMILY [--merge] [--sizes 3] [--pairs 7] [--dtype float32]
                           [--out FILE]

The same requests, their sizes dealt out in turn, are sent at once.  Ways:

* `mixed`: what the server does, requests of all sizes in one step;
* `one_after_another`: all requests of one size, then all of the next;
* `in_turn`: all at once, but every step runs one size, the sizes in turn;
* `all_at_largest`: everyone is given the largest size present, which is not what they asked for.

A ratio is the other way's seconds over those of `mixed`, pair by pair: above 1, mixed is faster.
Prints JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.engines import Engine, Request, routed_engine
from bench.pairs import Ratio, time_in_turn
from bench.run import add_common, add_dtype, add_merge, add_sizes, finish, kind_of, spread
from bench.traffic import BATCHES, LIMITS, Batch
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family

BASE = "mixed"


def ways(engine: Engine, requests: list[Request], tokens: int) -> Mapping[str, Callable[[], float]]:
    """Name → do the work once, that way."""
    sizes = sorted({size for size, _ in requests if size is not None})

    def in_turn() -> float:
        with engine.in_turn():
            return engine.seconds(requests, tokens)

    def one_after_another() -> float:
        parts = ([r for r in requests if r[0] == size] for size in sizes)
        return sum(engine.seconds(part, tokens) for part in parts)

    largest: list[Request] = [(sizes[-1], prompt) for _, prompt in requests]
    return {
        BASE: lambda: engine.seconds(requests, tokens),
        "one_after_another": one_after_another,
        "in_turn": in_turn,
        "all_at_largest": lambda: engine.seconds(largest, tokens),
    }


def compare(
    engine: Engine, batch: Batch, sizes: list[int], vocabulary: int, pairs: int
) -> dict[str, Any]:
    """Ratios of one batch."""
    requests = batch.at(sizes, vocabulary, seed=0)
    seconds = time_in_turn(ways(engine, requests, batch.tokens), pairs)
    base = seconds.pop(BASE)
    return {name: asdict(Ratio.of(values, base)) for name, values in seconds.items()}


def run(family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """Every batch, requests of some sizes spread over the ladder."""
    engine = routed_engine(family, options.merge, **LIMITS, dtype=options.dtype)
    sizes = spread(len(family.rows), options.sizes)
    return {
        "family": family.name,
        "kind": kind_of(family, options.merge),
        "sizes": [family.rows[size].id for size in sizes],
        "others_over_mixed": {
            name: compare(engine, batch, sizes, options.vocabulary, options.pairs)
            for name, batch in BATCHES.items()
            if batch.requests >= len(sizes)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_merge(parser)
    add_sizes(parser, 3)
    add_common(parser)
    add_dtype(parser)
    options = parser.parse_args()
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
