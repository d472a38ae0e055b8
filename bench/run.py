"""What the speed benchmarks share on the command line: options, sizes, where the report goes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from boomerang_core.devices import multiplies_bfloat16
from boomerang_core.family import Family
from boomerang_core.files import save_json
from boomerang_core.provenance import provenance


def add_merge(parser: argparse.ArgumentParser) -> None:
    """`--merge`."""
    parser.add_argument(
        "--merge", action="store_true", help="serve with deltas merged, as `serve --merge`"
    )


def kind_of(family: Family, merge: bool) -> str:
    """What a report calls the student that is served."""
    return "merged" if merge else family.design.kind.value


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


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """`--dtype`, what both sides compute in."""
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "float32",
        help="what both sides compute in: default bfloat16 where the CPU multiplies it",
    )


def add_sizes(parser: argparse.ArgumentParser, default: int) -> None:
    """`--sizes`, how many to spread over the ladder: both ends at least."""
    parser.add_argument(
        "--sizes", type=_at_least_two, default=default, help=f"how many, from 2: default {default}"
    )


def _at_least_two(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {number}")
    return number


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` of the sizes 0 … count - 1, evenly spread, the least and the greatest included."""
    top = count - 1
    return sorted({round(place * top / (chosen - 1)) for place in range(chosen)})


def finish(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the report with its provenance, and write it where asked."""
    dtype = {"dtype": options.dtype} if hasattr(options, "dtype") else {}
    whole = {**report, **dtype, **provenance(0)}
    print(json.dumps(whole, indent=1))
    if options.out is not None:
        save_json(whole, options.out)
