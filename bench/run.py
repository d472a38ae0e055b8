"""What the speed benchmarks share on the command line: options, sizes, where the report goes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from boomerang_core.provenance import provenance, save_json


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """`--pairs` and `--out`."""
    parser.add_argument("--pairs", type=int, default=7, help="measured rounds: default 7")
    parser.add_argument("--out", type=Path, help="write the JSON there as well")


def add_common(parser: argparse.ArgumentParser) -> None:
    """`--pairs`, `--vocabulary` and `--out`."""
    add_pairs(parser)
    parser.add_argument(
        "--vocabulary", type=int, default=200, help="prompt tokens are drawn below it"
    )


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` of the sizes 0 … count - 1, evenly spread, the least and the greatest included."""
    top = count - 1
    return sorted({round(place * top / (chosen - 1)) for place in range(chosen)})


def finish(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the report with its provenance, and write it where asked."""
    whole = {**report, **provenance(0)}
    print(json.dumps(whole, indent=1))
    if options.out is not None:
        save_json(whole, options.out)
