"""Compiled segments against eager layers, each in an engine of its own.

    python -m bench.compiled FAMILY [--sizes 3] [--plain] [--pairs 7] [--dtype float32] [--out FILE]

Each batch runs eagerly and compiled in turn, at each of some sizes and at all of them mixed; in
float32 both must answer the same.  A
ratio is eager's seconds over compiled's, pair by pair: above 1 compiled is faster; once by the
clock, once by the CPU seconds of the process, which other processes disturb less.  `--plain`
compares plain vLLM on the largest size instead.  The report also says how long compiling took, and
how many functions came from inductor's cache of an earlier run.  Prints JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from bench.engines import Engine, Request, plain_engine, routed_engine
from bench.pairs import Ratio, time_in_turn
from bench.run import add_common, add_dtype, add_sizes, finish, spread
from bench.traffic import LIMITS, Batch, add_batches, batches_of
from boomerang_core.assemble import export
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family

Ways = Mapping[str, Callable[[], object]]


def compare(ways: Ways, pairs: int) -> dict[str, Any]:
    """Ratios of `eager` over `compiled`, by the clock and by CPU seconds."""
    cpu: dict[str, list[float]] = {name: [] for name in ways}

    def timed(name: str) -> float:
        work, used, begun = ways[name], time.process_time(), time.perf_counter()
        work()
        took = time.perf_counter() - begun
        cpu[name].append(time.process_time() - used)
        return took

    seconds = time_in_turn({name: partial(timed, name) for name in ways}, pairs)
    used = {name: each[1:] for name, each in cpu.items()}  # the first round warms up
    return {
        "clock": asdict(Ratio.of(seconds["eager"], seconds["compiled"])),
        "cpu": asdict(Ratio.of(used["eager"], used["compiled"])),
    }


def ways_of(engines: Mapping[str, Engine], requests: list[Request], tokens: int) -> Ways:
    """The same requests in each engine."""
    return {name: partial(each.generate, requests, tokens) for name, each in engines.items()}


def sized(
    engines: Mapping[str, Engine], batch: Batch, sizes: list[int], vocabulary: int, same: bool
) -> Ways:
    """Both ways of one batch; `same`: their answers must be."""
    ways = ways_of(engines, batch.at(sizes, vocabulary, seed=0), batch.tokens)
    if same and ways["eager"]() != ways["compiled"]():
        raise AssertionError("compiled segments answer something else")
    return ways


def run(
    family: Family,
    count: int,
    batches: Mapping[str, Batch],
    vocabulary: int,
    pairs: int,
    dtype: str,
) -> dict[str, Any]:
    """`count` sizes spread over the ladder, each alone and all of them mixed."""
    limits = {**LIMITS, "dtype": dtype}
    engines = {
        "eager": routed_engine(family, **limits),
        "compiled": routed_engine(family, compiled=True, **limits),
    }
    sizes = spread(len(family.rows), count)
    mixes = {family.rows[size].id: [size] for size in sizes} | {"mixed": sizes}
    same = dtype == "float32"
    return {
        "family": family.name,
        "kind": family.design.kind.value,
        "compile_seconds": engines["compiled"].compile_seconds,
        "inductor": {
            name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss")
        },
        "eager_over_compiled": {
            mix: {
                name: compare(sized(engines, batch, chosen, vocabulary, same), pairs)
                for name, batch in batches.items()
                if batch.requests >= len(chosen)
            }
            for mix, chosen in mixes.items()
        },
    }


def run_plain(
    family: Family, batches: Mapping[str, Batch], vocabulary: int, pairs: int, dtype: str
) -> dict[str, Any]:
    """Plain vLLM on the largest size: what its own compilation gives here."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, limits = Path(scratch) / "size", {**LIMITS, "dtype": dtype}
        export(family, len(family.rows) - 1, folder, getattr(torch, dtype))
        engines = {"eager": plain_engine(folder, **limits)}
        begun = time.perf_counter()
        engines["compiled"] = plain_engine(folder, enforce_eager=False, **limits)
        took = round(time.perf_counter() - begun, 1)

    def ways(batch: Batch) -> Ways:
        return ways_of(engines, batch.at([None], vocabulary, seed=0), batch.tokens)

    return {
        "family": family.name,
        "start_seconds": took,
        "eager_over_compiled": {
            name: compare(ways(batch), pairs) for name, batch in batches.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_sizes(parser, 3)
    parser.add_argument("--plain", action="store_true", help="compare plain vLLM on the largest")
    add_batches(parser, "decode 1", "decode 4", "decode 16")
    add_common(parser)
    add_dtype(parser)
    options = parser.parse_args()
    family = load_family(family_folder(options.family))
    batches = batches_of(options)
    measured = (batches, options.vocabulary, options.pairs, options.dtype)
    report = (
        run_plain(family, *measured) if options.plain else run(family, options.sizes, *measured)
    )
    finish(report, options)


if __name__ == "__main__":
    main()
