"""Tokens per second of every offered size, and how the step's time relates to the bytes it reads.

    python -m bench.speed FAMILY [--batch "decode 16"] [--pairs 7] [--out speed.json]

All sizes are timed in turn in one engine.  The floor of a decode step is the bytes of
the size's weights and of the KV cache that it reads, over the memory bandwidth that this run
measured (`torch.sum` over a tensor far larger than the caches).  `boomerang report --speed` draws
the file.  Prints JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.engines import Engine, routed_engine
from bench.pairs import time_in_turn
from bench.run import add_common, add_dtype, finish
from bench.traffic import BATCHES, LIMITS, Batch
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.provenance import provenance
from boomerang_core.sizes import SizeRow

_READ_BYTES = 1 << 30


def read_bandwidth(repeats: int = 5) -> float:
    """Bytes per second of one read of a gibibyte, the median of `repeats`."""
    data = torch.ones(_READ_BYTES // torch.float32.itemsize)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - start)
    return _READ_BYTES / statistics.median(seconds)


def bytes_of_answers(row: SizeRow, batch: Batch) -> int:
    """Bytes that the steps of a batch must read: weights once a step, KV of all tokens so far."""
    cached = sum(batch.prompt + step for step in range(batch.tokens))
    return batch.tokens * row.weight_bytes + batch.requests * cached * row.kv_bytes_per_token


def time_sizes(
    engine: Engine, family: Family, batch: Batch, vocabulary: int, rounds: int
) -> dict[str, list[float]]:
    """Size → seconds of the batch, by round."""
    ways = {row.id: timed(engine, batch, row.size, vocabulary) for row in family.table.offered}
    return time_in_turn(ways, rounds)


def timed(engine: Engine, batch: Batch, size: int | None, vocabulary: int) -> Callable[[], float]:
    """What runs the batch at one size, or in plain vLLM at none, and returns its seconds."""
    requests = batch.at([size], vocabulary, seed=0)
    return lambda: engine.seconds(requests, batch.tokens)


def run(family: Family, name: str, rounds: int, vocabulary: int, dtype: str) -> dict[str, Any]:
    """The report of one batch."""
    served, batch = family.served_in(getattr(torch, dtype).itemsize), BATCHES[name]
    engine = routed_engine(family, **LIMITS, dtype=dtype)
    seconds = time_sizes(engine, served, batch, vocabulary, rounds)
    medians = {size: statistics.median(values) for size, values in seconds.items()}
    bandwidth = read_bandwidth()
    answered = batch.requests * batch.tokens
    floors = {row.id: bytes_of_answers(row, batch) / bandwidth for row in served.table.offered}
    return {
        "family": family.name,
        "load": f"{batch.crowd}, {batch.tokens} tokens each, {dtype}",
        "n": rounds,
        "tokens_per_second": {size: round(answered / took, 2) for size, took in medians.items()},
        "read_bytes_per_second": round(bandwidth),
        "over_floor": {size: round(took / floors[size], 3) for size, took in medians.items()},
        "provenance": provenance(0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("--batch", choices=BATCHES, default="decode 16")
    add_common(parser)
    add_dtype(parser)
    options = parser.parse_args()
    family = load_family(family_folder(options.family))
    finish(run(family, options.batch, options.pairs, options.vocabulary, options.dtype), options)


if __name__ == "__main__":
    main()
