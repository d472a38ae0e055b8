"""What a step costs beside the model: scheduling, batches, KV blocks, metadata, sampling, outputs.

    python -m bench.bookkeeping FAMILY [--batch 1 16 64] [--pairs 7] [--out FILE]

The models of all engines do nothing here, so what is left of a step is what vLLM and we do in
Python around it.  On a GPU this decides whether a small model is slower than in plain vLLM: a step
of its kernels is short, and unless scheduling is asynchronous they wait for it.

Engines: plain vLLM on the teacher; ours as a server has it; ours with all layers in one KV group.
Traffic of one size, and of three sizes mixed, which cuts the batch.  Milliseconds of the engine's
thread a step, medians of rounds in turn, with the least and the greatest.  Prints JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.engines import Engine, Request, plain_engine
from bench.kv import engine_with
from bench.pairs import time_in_turn
from bench.run import add_common, finish, spread
from bench.traffic import Batch
from boomerang_core.checkpoint import teacher_folder
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family

PROMPT, ANSWER = 4, 60


def thread_seconds(engine: Engine, requests: Sequence[Request]) -> float:
    """Seconds that this thread, in which the engine runs, spent on those requests."""
    start = time.thread_time()
    engine.generate(requests, ANSWER)
    return time.thread_time() - start


def compare(
    ours: Engine, one_group: Engine, plain: Engine, rows: int, sizes: int, options: Any
) -> dict[str, Any]:
    """Milliseconds a step of one batch in each way."""
    batch = Batch(rows, PROMPT, ANSWER)

    def way(engine: Engine, at: Sequence[int | None]) -> Callable[[], float]:
        return partial(thread_seconds, engine, batch.at(at, options.vocabulary, seed=0))

    ways = {
        "plain": way(plain, [None]),
        "one size, one group": way(one_group, [sizes - 1]),
        "one size": way(ours, [sizes - 1]),
    }
    if rows >= 3:
        ways["three sizes, one group"] = way(one_group, spread(sizes, 3))
        ways["three sizes"] = way(ours, spread(sizes, 3))
    seconds = time_in_turn(ways, options.pairs)
    return {
        name: {
            key: round(1000 * of(values) / ANSWER, 3)
            for key, of in (("median", statistics.median), ("low", min), ("high", max))
        }
        for name, values in seconds.items()
    }


def run(family: Family, options: argparse.Namespace, **limits: Any) -> dict[str, Any]:
    """The whole report; `limits` over those of `bench.engines`."""
    limits = {**limits, "max_num_seqs": max(options.batch), "enable_prefix_caching": False}
    ours, one_group = (engine_with(family, most, **limits) for most in (None, 1))
    plain = plain_engine(teacher_folder(family), **limits)
    for engine in (ours, one_group, plain):
        engine.skip_model()
    count = len(family.rows)
    return {
        "family": family.name,
        "n": options.pairs,
        "step_ms": {
            f"{rows} decoding": compare(ours, one_group, plain, rows, count, options)
            for rows in options.batch
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    add_common(parser)
    options = parser.parse_args()
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
