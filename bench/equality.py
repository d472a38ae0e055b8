"""Greedy tokens of one engine for all sizes, against transformers and against plain vLLM.

    python -m bench.equality FAMILY [--merge] [--sizes 5]

In float32.  The same prompts at each size: in transformers on the assembled model; in plain vLLM
on the exported checkpoint, an engine of its own for each size; and in the routed engine one at a
time, in a mixed batch of 16 in three orders, with staggered arrivals, and on prefix-cache hits.
Prints JSON: for each way the number of answers equal to transformers', and of all; then the
engine's resident bytes beside the teacher's.  Exits with 1 where an answer differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.engines import Engine, plain_engine, routed_engine
from bench.expected import PROMPTS, TOKENS, Answers, Key, in_transformers
from bench.run import add_merge, add_sizes, kind_of, spread
from boomerang_core.assemble import export
from boomerang_core.checkpoint import load_tokenizer
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.footprint import teacher_params
from boomerang_core.provenance import provenance

BATCH = 16


@dataclass(frozen=True)
class Score:
    """How many answers were equal, of how many."""

    equal: int
    asked: int

    def __str__(self) -> str:
        return f"{self.equal}/{self.asked}"


def score(
    got: Sequence[list[int]], keys: Sequence[Key], expected: Mapping[Key, list[int]]
) -> Score:
    """Compare answers with those expected of the same keys."""
    equal = sum(answer == expected[key] for answer, key in zip(got, keys, strict=True))
    return Score(equal, len(keys))


def in_plain_vllm(family: Family, keys: Sequence[Key], prompts: Sequence[list[int]]) -> Answers:
    """Each size exported and served by plain vLLM, in a process of its own."""
    answers: Answers = {}
    for size in sorted({size for size, _ in keys}):
        with tempfile.TemporaryDirectory() as folder:
            export(family, size, Path(folder) / "size", torch.float32)
            command = [sys.executable, "-m", "bench.equality", "--plain", f"{folder}/size"]
            done = subprocess.run(
                command, input=json.dumps(prompts), capture_output=True, text=True, check=True
            )
        generated = json.loads(done.stdout.splitlines()[-1])
        answers |= {(size, place): tokens for place, tokens in enumerate(generated)}
    return {key: answers[key] for key in keys}


def plain(folder: Path) -> None:
    """Answer the prompts of standard input with plain vLLM; JSON on the last line."""
    prompts = json.load(sys.stdin)
    engine = plain_engine(folder)
    print(json.dumps([engine.generate([(None, prompt)])[0] for prompt in prompts]))


def in_one_engine(
    engine: Engine, keys: Sequence[Key], prompts: Sequence[list[int]], expected: Answers
) -> dict[str, Any]:
    """Scores of every way to mix the same requests."""

    def ask(chosen: Sequence[Key]) -> Score:
        got = engine.generate([(size, prompts[place]) for size, place in chosen])
        return score(got, chosen, expected)

    alone = [ask([key]) for key in keys]
    mixed = random.Random(0).choices(keys, k=BATCH)
    orders = [random.Random(seed).sample(mixed, BATCH) for seed in range(3)]
    staggered = engine.staggered([(size, prompts[place]) for size, place in mixed])
    longest = len(prompts) - 1
    hits = [key for key in keys if key[1] == longest]
    ask(hits)
    return {
        "one_at_a_time": str(Score(sum(one.equal for one in alone), len(alone))),
        "mixed_in_three_orders": [str(ask(order)) for order in orders],
        "staggered": str(score(staggered, mixed, expected)),
        "prefix_hits": str(ask(hits)),
        "cached_tokens_of_the_hits": engine.cached_tokens,
    }


def compare(family: Family, count: int, merge: bool) -> dict[str, Any]:
    """The report for ``count`` sizes spread over the ladder."""
    sizes = spread(len(family.rows), count)
    tokenizer = load_tokenizer(family)
    prompts: list[list[int]] = [tokenizer(text)["input_ids"] for text in PROMPTS]
    keys = [(size, place) for size in sizes for place in range(len(prompts))]
    expected = in_transformers(family, keys, prompts)
    vllm = in_plain_vllm(family, keys, prompts)
    engine = routed_engine(family, merge)
    return {
        "family": family.name,
        "kind": kind_of(family, merge),
        "sizes": [family.rows[size].id for size in sizes],
        "tokens": TOKENS,
        "distinct_answers": len({tuple(answer) for answer in expected.values()}),
        "plain_vllm_on_the_exports": str(score(list(vllm.values()), keys, expected)),
        **in_one_engine(engine, keys, prompts, expected),
        "resident_bytes": engine.resident_bytes,
        "resident_over_teacher": round(
            engine.resident_bytes / (4 * teacher_params(family.shape)), 4
        ),
        **provenance(0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_merge(parser)
    add_sizes(parser, 5)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.family)
        return
    report = compare(load_family(family_folder(options.family)), options.sizes, options.merge)
    print(json.dumps(report, indent=1))
    scores = [report["plain_vllm_on_the_exports"], report["one_at_a_time"], report["staggered"]]
    scores += [*report["mixed_in_three_orders"], report["prefix_hits"]]
    sys.exit(any(len(set(text.split("/"))) > 1 for text in scores))


if __name__ == "__main__":
    main()
