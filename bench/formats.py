"""bfloat16 against float32 in the engine of a family, at each of some sizes.

    python -m bench.formats FAMILY [--sizes 2] [--pairs 7] [--out FILE]

A ratio is float32's seconds over bfloat16's, pair by pair: above 1 bfloat16 is faster.  Prints
JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.engines import routed_engine
from bench.one_size import Side, compare
from bench.run import add_common, add_sizes, finish, spread
from bench.traffic import LIMITS, Batch, add_batches, batches_of
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family


def run(
    family: Family, count: int, pairs: int, vocabulary: int, batches: Mapping[str, Batch]
) -> dict[str, Any]:
    """`count` sizes spread over the ladder, each on every batch."""
    engines = {
        dtype: routed_engine(family, **LIMITS, dtype=dtype) for dtype in ("float32", "bfloat16")
    }

    def table(size: int) -> dict[str, Any]:
        over, under = (Side(engine, size) for engine in engines.values())
        return compare(over, under, batches, vocabulary, pairs)

    return {
        "family": family.name,
        "float32_over_bfloat16": {
            family.rows[size].id: table(size) for size in spread(len(family.rows), count)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_sizes(parser, 2)
    add_batches(parser, "decode 1", "decode 16", "prefill 16 x 192")
    add_common(parser)
    options = parser.parse_args()
    family = load_family(family_folder(options.family))
    batches = batches_of(options)
    finish(run(family, options.sizes, options.pairs, options.vocabulary, batches), options)


if __name__ == "__main__":
    main()
