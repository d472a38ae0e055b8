"""One engine for every size on a GPU, in bfloat16: sizes alone, mixed, and plain vLLM beside it.

    python -m bench.gpu_engine FAMILY [--batch 1 16 64] [--sizes 3] [--pairs 7] [--merged]
                                      [--ours graphs compiled] [--out FILE]

Ways, timed in turn in one process on the same prompts:

* each of some sizes alone, in our engine, and in further ones that are set differently (`--ours`);
* `mixed`, their requests at once; `one_after_another`; `in_turn`, steps of one size in turn; and
  `all_at_largest`, with which everyone gets another size than asked for;
* `plain`: plain vLLM on the teacher as it comes, so with its own compilation, CUDA graphs and
  asynchronous scheduling; with `--merged`, plain vLLM on each of the sizes, exported.

Reports tokens a second, the time of a step over its floor (bytes of weights and KV read, over the
memory bandwidth that this run measured), and ratios pair by pair.  Prints JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.engines import Engine, plain_engine, routed_engine
from bench.mixing import ways
from bench.pairs import Ratio, time_in_turn
from bench.run import add_common, add_sizes, finish, spread
from bench.speed import bytes_of_answers
from bench.speed import timed as timed_at
from bench.traffic import Batch
from boomerang_core.assemble import export
from boomerang_core.checkpoint import teacher_folder
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family

PROMPT, ANSWER = 16, 128
LIMITS: dict[str, Any] = {
    "dtype": "bfloat16",
    "max_num_seqs": 256,
    "max_model_len": 512,
    "block_size": 16,
    "kv_cache_memory_bytes": 4 << 30,
    "enable_prefix_caching": False,
}
OURS: dict[str, dict[str, Any]] = {
    "graphs": {},
    "compiled": {"compiled": True},
    "synchronous": {"async_scheduling": False},
    "eager": {"graphs": False},
}
"""How our engine can be set; without anything, as a server sets it."""

_COPIED_BYTES = 1 << 30


def copy_bandwidth(repeats: int = 20) -> float:
    """Bytes a second of reading and writing a gibibyte, the median of `repeats`."""
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * _COPIED_BYTES / statistics.median(seconds)


def plain_engines(family: Family, sizes: Sequence[int], merged: bool) -> dict[int, Engine]:
    """Plain vLLM as it comes, on the teacher or, merged, on every size."""
    limits = {**LIMITS, "enforce_eager": False}
    top = len(family.rows) - 1
    engines = {top: plain_engine(teacher_folder(family), **limits)}
    for size in sizes[:-1] if merged else ():
        with tempfile.TemporaryDirectory() as folder:
            export(family, size, Path(folder) / "size", torch.bfloat16)
            engines[size] = plain_engine(Path(folder) / "size", **limits)
    return engines


def compare(
    family: Family,
    ours: dict[str, Engine],
    plain: dict[int, Engine],
    batch: Batch,
    sizes: list[int],
    vocabulary: int,
    pairs: int,
    bandwidth: float,
) -> dict[str, Any]:
    """One batch, every way; sizes are mixed in the first of our engines."""
    names = {size: family.rows[size].id for size in sizes}
    timed: dict[str, Callable[[], float]] = {}
    for size in sizes:
        for way, engine in ours.items():
            timed[f"{names[size]} {way}"] = timed_at(engine, batch, size, vocabulary)
    for size, engine in plain.items():
        timed[f"{names[size]} plain"] = timed_at(engine, batch, None, vocabulary)
    if batch.requests >= len(sizes):
        first = next(iter(ours.values()))
        timed |= ways(first, batch.at(sizes, vocabulary, seed=0), batch.tokens)
    seconds = time_in_turn(timed, pairs)
    floors = {names[size]: bytes_of_answers(family.rows[size], batch) / bandwidth for size in sizes}
    return {
        "step_ms": {
            name: round(1000 * statistics.median(values) / batch.tokens, 3)
            for name, values in seconds.items()
        },
        "over_floor": {
            f"{name} {way}": round(statistics.median(seconds[f"{name} {way}"]) / floor, 2)
            for name, floor in floors.items()
            for way in ours
        },
        "plain_over_ours": {
            f"{names[size]} {way}": asdict(
                Ratio.of(seconds[f"{names[size]} plain"], seconds[f"{names[size]} {way}"])
            )
            for size in plain
            for way in ours
        },
        "others_over_mixed": {
            name: asdict(Ratio.of(seconds[name], seconds["mixed"]))
            for name in ("one_after_another", "in_turn", "all_at_largest")
            if name in seconds
        },
    }


def run(family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """The report of one family."""
    bandwidth = copy_bandwidth()
    sizes = spread(len(family.rows), options.sizes)
    ours, started = {}, {}
    for way in options.ours:
        start = time.perf_counter()
        ours[way] = routed_engine(family, **{**LIMITS, **OURS[way]})
        started[way] = round(time.perf_counter() - start, 1)
    plain = plain_engines(family, sizes, options.merged) if options.plain else {}
    return {
        "family": family.name,
        "device": torch.cuda.get_device_name(),
        "sizes": [family.rows[size].id for size in sizes],
        "sizes_offered": len(family.table.offered),
        "start_seconds": started,
        "copy_bytes_per_second": round(bandwidth),
        "batches": {
            f"{rows} decoding": compare(
                family,
                ours,
                plain,
                Batch(rows, PROMPT, ANSWER),
                sizes,
                options.vocabulary,
                options.pairs,
                bandwidth,
            )
            for rows in options.batch
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_sizes(parser, 3)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--merged", action="store_true", help="plain vLLM on every size, exported")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="our engine alone")
    parser.add_argument("--ours", nargs="+", choices=OURS, default=["graphs"])
    add_common(parser)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU")
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
