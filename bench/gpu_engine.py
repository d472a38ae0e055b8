"""One engine for every size on a GPU, in bfloat16: sizes alone, mixed, and plain vLLM beside it.

    python -m bench.gpu_engine FAMILY [--batch "decode 16"] [--sizes 3] [--pairs 7] [--exported]
                                      [--ours graphs compiled] [--out FILE]

Batches: requests that are sent at once and decode; prompts alone; and requests that join, one at
every second step, so that prompts meet decoding all the time.

Ways, timed in turn in one process on the same prompts:

* each of some sizes alone, in our engine, and in further ones that are set differently (`--ours`);
* `mixed`, their requests at once; `one_after_another`; `in_turn`, steps of one size in turn; and
  `all_at_largest`, with which everyone gets another size than asked for; where requests join,
  `mixed` and `all_at_largest`;
* `plain`: plain vLLM on the teacher as it comes, so with its own compilation, CUDA graphs and
  asynchronous scheduling; with `--exported`, plain vLLM on each of the sizes, exported.

Reports milliseconds of a whole batch, in decoding batches those over their floor (bytes of weights
and KV read, over the memory bandwidth that this run measured), and ratios pair by pair.  Prints
JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.engines import Engine, Request, plain_engine, routed_engine
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

BATCHES = {
    "decode 1": Batch(1, 16, 128),
    "decode 16": Batch(16, 16, 128),
    "decode 64": Batch(64, 16, 128),
    "prompts 4 x 100": Batch(4, 100, 1),
    "prompts 16 x 192": Batch(16, 192, 1),
    "join 32": Batch(32, 64, 32, joins=True),
}
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
    "merged": {"merge": True},
    "decoding": {"prompt_graphs": False},
    "synchronous": {"async_scheduling": False},
    "eager": {"graphs": False},
}
"""How our engine can be set; without anything, as a server sets it."""

Way = Callable[[], float]
"""Does the work once and returns its seconds."""

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
    del source, target
    torch.cuda.empty_cache()
    return 2 * _COPIED_BYTES / statistics.median(seconds)


def plain_engines(family: Family, sizes: Sequence[int], exported: bool) -> dict[int, Engine]:
    """Plain vLLM as it comes, on the teacher or, exported, on every size."""
    limits = {**LIMITS, "enforce_eager": False}
    top = len(family.rows) - 1
    engines = {top: plain_engine(teacher_folder(family), **limits)}
    for size in sizes[:-1] if exported else ():
        with tempfile.TemporaryDirectory() as folder:
            export(family, size, Path(folder) / "size", torch.bfloat16)
            engines[size] = plain_engine(Path(folder) / "size", **limits)
    return engines


def seconds_to_join(engine: Engine, requests: Sequence[Request], tokens: int) -> float:
    """Seconds until all have their answers, one more request joining at every second step."""
    start = time.perf_counter()
    engine.staggered(requests, tokens)
    return time.perf_counter() - start


def alone(engine: Engine, batch: Batch, size: int | None, vocabulary: int) -> Way:
    """What runs the batch at one size, or in plain vLLM at none."""
    if not batch.joins:
        return timed_at(engine, batch, size, vocabulary)
    requests = batch.at([size], vocabulary, seed=0)
    return partial(seconds_to_join, engine, requests, batch.tokens)


def together(engine: Engine, batch: Batch, sizes: list[int], vocabulary: int) -> Mapping[str, Way]:
    """What runs the batch at several sizes, mixed and otherwise; nothing where it is too small."""
    if batch.requests < len(sizes):
        return {}
    requests = batch.at(sizes, vocabulary, seed=0)
    if not batch.joins:
        return ways(engine, requests, batch.tokens)
    return {
        "mixed": partial(seconds_to_join, engine, requests, batch.tokens),
        "all_at_largest": alone(engine, batch, sizes[-1], vocabulary),
    }


def compare(
    family: Family,
    ours: dict[str, Engine],
    plain: dict[int, Engine],
    batch: Batch,
    sizes: list[int],
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Seconds of one batch, every way; sizes are mixed in the first of our engines."""
    names = {size: family.rows[size].id for size in sizes}
    timed: dict[str, Way] = {}
    for size in sizes:
        for way, engine in ours.items():
            timed[f"{names[size]} {way}"] = alone(engine, batch, size, options.vocabulary)
    for size, engine in plain.items():
        timed[f"{names[size]} plain"] = alone(engine, batch, None, options.vocabulary)
    timed |= together(next(iter(ours.values())), batch, sizes, options.vocabulary)
    return time_in_turn(timed, options.pairs)


def summary(
    family: Family,
    seconds: dict[str, list[float]],
    batch: Batch,
    ours: Sequence[str],
    plain: Sequence[int],
    sizes: list[int],
    bandwidth: float,
) -> dict[str, Any]:
    """What one batch's seconds say."""
    names = {size: family.rows[size].id for size in sizes}
    floors = {names[size]: bytes_of_answers(family.rows[size], batch) / bandwidth for size in sizes}
    return {
        "ms": {
            name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()
        },
        "over_floor": {
            f"{name} {way}": round(statistics.median(seconds[f"{name} {way}"]) / floor, 2)
            for name, floor in floors.items()
            for way in ours
            if batch.tokens > 1 and not batch.joins
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
    plain = plain_engines(family, sizes, options.exported) if options.plain else {}
    batches = {}
    for name in options.batch:
        batch = BATCHES[name]
        seconds = compare(family, ours, plain, batch, sizes, options)
        batches[name] = summary(family, seconds, batch, list(ours), list(plain), sizes, bandwidth)
    return {
        "family": family.name,
        "device": torch.cuda.get_device_name(),
        "sizes": [family.rows[size].id for size in sizes],
        "sizes_offered": len(family.table.offered),
        "start_seconds": started,
        "copy_bytes_per_second": round(bandwidth),
        "batches": batches,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_sizes(parser, 3)
    parser.add_argument("--batch", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--exported", action="store_true", help="plain vLLM on every size")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="our engine alone")
    parser.add_argument("--ours", nargs="+", choices=OURS, default=["graphs"])
    add_common(parser)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU")
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
