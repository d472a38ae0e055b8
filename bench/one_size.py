"""All requests at one size: the engine of the whole family against plain vLLM on that size alone.

    python -m bench.one_size FAMILY [--merge] [--sizes 5] [--pairs 7] [--dtype float32]
                             [--out FILE]

Each size is exported (low-rank students merged into dense weights) and served by plain vLLM in the
same process and mode.  A ratio is plain vLLM's seconds over ours, pair by pair: 1 where serving
every size costs nothing, below 1 where it costs something.  A second engine of plain vLLM on the
teacher's size, against the first, shows what such a ratio is worth on this machine.  Prints JSON.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.engines import Engine, plain_engine, routed_engine
from bench.pairs import Ratio, time_in_turn
from bench.run import add_common, add_dtype, add_merge, add_sizes, finish, kind_of, spread
from bench.traffic import LIMITS, Batch, add_batches, batches_of
from boomerang_core.assemble import export
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family


@dataclass(frozen=True)
class Side:
    """An engine, and the size that it is asked for; None in a plain one."""

    engine: Engine
    size: int | None = None

    def seconds(self, batch: Batch, vocabulary: int) -> float:
        """Seconds for the batch."""
        return self.engine.seconds(batch.at([self.size], vocabulary, seed=0), batch.tokens)


def compare(
    over: Side, under: Side, batches: Mapping[str, Batch], vocabulary: int, pairs: int
) -> dict[str, Any]:
    """The ratios of their seconds, by batch."""
    return {
        name: asdict(_ratio(over, under, batch, vocabulary, pairs))
        for name, batch in batches.items()
    }


def _ratio(over: Side, under: Side, batch: Batch, vocabulary: int, pairs: int) -> Ratio:
    ways = {
        "over": lambda: over.seconds(batch, vocabulary),
        "under": lambda: under.seconds(batch, vocabulary),
    }
    seconds = time_in_turn(ways, pairs)
    return Ratio.of(seconds["over"], seconds["under"])


def run(family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """Some sizes spread over the ladder, each on every batch."""
    limits = {**LIMITS, "dtype": options.dtype}
    ours = routed_engine(family, options.merge, **limits)
    kept = []  # to the end: an engine that goes takes vLLM's process groups with it

    def plain(size: int) -> Side:
        with tempfile.TemporaryDirectory() as folder:
            export(family, size, Path(folder) / "size", getattr(torch, options.dtype))
            kept.append(Side(plain_engine(Path(folder) / "size", **limits)))
        return kept[-1]

    def table(over: Side, under: Side) -> dict[str, Any]:
        return compare(over, under, batches_of(options), options.vocabulary, options.pairs)

    return {
        "family": family.name,
        "kind": kind_of(family, options.merge),
        "plain_over_ours": {
            family.rows[size].id: table(plain(size), Side(ours, size))
            for size in spread(len(family.rows), options.sizes)
        },
        "plain_over_itself": table(kept[-1], plain(len(family.rows) - 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_merge(parser)
    add_sizes(parser, 5)
    add_batches(parser, "decode 1", "decode 16", "prefill 16 x 192")
    add_common(parser)
    add_dtype(parser)
    options = parser.parse_args()
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
