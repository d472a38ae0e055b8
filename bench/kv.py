"""What the KV memory holds at each end of a ladder, and what its groups cost in time.

    python -m bench.kv FAMILY [--kv-mib 128] [--tokens 120] [--pairs 7] [--out FILE]

* `tokens_held`: requests of one size are sent until the KV memory is full; tokens of those that
  run at once, for the student's and the teacher's size, with groups and with all layers in one.
* `seconds_over_one_group`: the same requests in an engine with groups and in one without, in
  turn; below 1, groups are faster.  At the teacher's size, at the student's, and mixed.

In float32; prints JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from bench.engines import Engine, Request, routed_engine
from bench.pairs import Ratio, time_in_turn
from bench.run import add_common, finish, spread
from bench.traffic import Batch
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.kv_groups import choose_groups, layer_ranks

DECODE = Batch(requests=16, prompt=32, tokens=32)
MANY = 512


def engine_with(family: Family, most_groups: int | None, **limits: Any) -> Engine:
    """An engine with at most so many KV groups; None: as a server has it."""
    if most_groups is None:
        return routed_engine(family, **limits)
    chosen = partial(choose_groups, most=most_groups)
    with mock.patch("server.engine.kv.choose_groups", chosen):
        return routed_engine(family, **limits)


def tokens_held(engine: Engine, size: int, length: int, vocabulary: int) -> int:
    """Tokens that fit the KV memory at once, in requests of `length` tokens of one size.

    The requests are taken up by one step, which must have room for all of them.
    """
    running = engine.at_once(Batch(MANY, length, 2).at([size], vocabulary, seed=size))
    assert running < MANY, "the KV memory holds more requests than were sent"
    return running * length


def run(family: Family, options: argparse.Namespace, **limits: Any) -> dict[str, Any]:
    """The whole report; `limits` over those of `bench.engines`."""
    room = {
        "max_num_seqs": MANY,
        "max_num_batched_tokens": MANY * options.tokens,
        "kv_cache_memory_bytes": options.kv_mib << 20,
        "enable_prefix_caching": False,
    }
    shared = {**limits, "enable_prefix_caching": False}
    most = {"groups": None, "one_group": 1}
    # All are kept to the end: an engine that goes takes vLLM's process groups with it.
    full = {name: engine_with(family, count, **{**limits, **room}) for name, count in most.items()}
    ample = {name: engine_with(family, count, **shared) for name, count in most.items()}
    groups = choose_groups(layer_ranks(family.design))
    return {
        "family": family.name,
        "kind": family.design.kind.value,
        "layers_of_groups": [len(group) for group in groups.layers],
        "kv_bytes": options.kv_mib << 20,
        "tokens_held": {name: held(engine, family, options) for name, engine in full.items()},
        "seconds_over_one_group": timed(ample, family, options),
    }


def held(engine: Engine, family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens held at both ends, and their ratio."""
    student, teacher = (
        tokens_held(engine, size, options.tokens, options.vocabulary)
        for size in (0, len(family.rows) - 1)
    )
    return {"student": student, "teacher": teacher, "ratio": round(student / teacher, 3)}


def timed(
    engines: Mapping[str, Engine], family: Family, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds with groups over seconds without, for traffic of one size and of several."""
    count = len(family.rows)
    traffic = {"teacher": [count - 1], "student": [0], "three sizes": spread(count, 3)}
    report = {}
    for name, sizes in {**traffic, "all sizes": list(range(count))}.items():
        requests: list[Request] = DECODE.at(sizes, options.vocabulary, seed=0)
        ways = {
            key: partial(engine.seconds, requests, DECODE.tokens) for key, engine in engines.items()
        }
        seconds = time_in_turn(ways, options.pairs)
        report[name] = asdict(Ratio.of(seconds["groups"], seconds["one_group"]))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("--kv-mib", type=int, default=128, help="KV memory: default 128 MiB")
    parser.add_argument("--tokens", type=int, default=120, help="of each request: default 120")
    add_common(parser)
    options = parser.parse_args()
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
