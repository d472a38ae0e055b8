"""What the deltas of a low-rank student are worth: its quality without some, or at a lower rank.

    python -m bench.deltas FAMILY --text FILE [--tokens 2044] [--ranks 8 16 32] [--rows 1 16]
                           [--threads 1] [--dtype float32] [--out FILE]

* `without`: KL of the student's size with the deltas of a linear map, or of all those of a module,
  left out in every block;
* `rank`: the same with every delta cut down to its best approximation of that rank;
* beside them the share of the student's parameters that the deltas of a map are, and what they add
  to the time of that map, as the engine runs both on a CPU (medians).

Nothing is trained again, so a student distilled without those deltas would do better: what costs
nothing here can go, and what costs much may still be learned elsewhere.  Prints JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.run import add_dtype, finish
from boomerang_core.architectures import Architecture
from boomerang_core.checkpoint import load_teacher, load_tokenizer
from boomerang_core.cli import family_folder
from boomerang_core.cli.common import limit_threads
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.family import Family, load_family
from boomerang_core.lowrank import A, B, balanced_factors
from boomerang_core.route import StudentKind, ladder_routes
from boomerang_core.route_runner import RouteRunner
from boomerang_core.sizes import Quality
from boomerang_core.student import Student, load_student
from boomerang_core.text.evaluation import Sample
from server.engine.deltas import LowRankDelta, PackedMap

ROW_LENGTH, REPEATS = 512, 200


def without(student: Student, name: str) -> Student:
    """The student with the deltas of a map (`mlp.up_proj`) or a module (`mlp`) at zero."""
    zero = {
        full: torch.zeros_like(tensor)
        for full, tensor in student.tensors.items()
        if full.endswith(B) and f".{name}." in full
    }
    return student.with_tensors(zero)


def cut_down(student: Student, rank: int) -> Student:
    """The student with every delta at its best approximation of that rank."""
    changed: dict[str, torch.Tensor] = {}
    for name, left in student.tensors.items():
        if name.endswith(B):
            stem = name.removesuffix(B)
            delta = left.float() @ student.tensors[stem + A].float()
            changed[name], changed[stem + A] = balanced_factors(delta, rank)
    return student.with_tensors(changed)


def variants(student: Student, ranks: list[int]) -> Iterator[tuple[str, Student]]:
    """The student as it is, without each map's deltas, and at each rank."""
    yield "as it is", student
    maps = student.row.linear_maps
    modules = sorted({linear.rpartition(".")[0] for linear in maps} - {""})
    for name in (*maps, *modules):
        yield f"without {name}", without(student, name)
    for rank in ranks:
        yield f"rank {rank}", cut_down(student, rank)


def qualities(
    family: Family, student: Student, text: Path, tokens: int, ranks: list[int]
) -> dict[str, Quality]:
    """The student's size in each variant, on the same tokens."""
    ids_RL = Sample(text, tokens, ROW_LENGTH).rows(load_tokenizer(family))
    teacher = load_teacher(family, torch.float32).requires_grad_(False)
    smallest, *_, whole = ladder_routes(family.design)
    found = {}
    for name, variant in variants(student, ranks):
        runner = RouteRunner.of(teacher, variant, family.design, ROW_LENGTH)
        (found[name],) = evaluate_routes(runner, whole, [smallest], ids_RL, None)
        print(name, found[name], flush=True)
    return found


def shares(student: Student, params: int) -> dict[str, float]:
    """Each map's deltas as a share of the parameters that the student's size reads."""
    return {
        linear: round(
            sum(
                t.numel()
                for n, t in student.tensors.items()
                if n.endswith((linear + A, linear + B))
            )
            / params,
            4,
        )
        for linear in student.row.linear_maps
    }


def added_time(
    row: Architecture, tensors: Mapping[str, torch.Tensor], rows: int, dtype: torch.dtype
) -> dict[str, float]:
    """Each map's delta over the map itself, in time, for so many rows of one block."""
    report = {}
    for linear in row.linear_maps:
        a, b = tensors[linear + A].to(dtype), tensors[linear + B].to(dtype)
        outputs, inputs = b.shape[0], a.shape[1]
        fake = SimpleNamespace(output_partition_sizes=[outputs], input_size_per_partition=inputs)
        delta = LowRankDelta(fake, [None], a.shape[0]).to(dtype)
        delta.a.data.copy_(a)
        delta.b.data.copy_(b)
        delta.pack()
        base = PackedMap(torch.randn(outputs, inputs).to(dtype))
        x_TI, y_TO = torch.randn(rows, inputs).to(dtype), torch.zeros(rows, outputs, dtype=dtype)
        spent = _seconds(partial(delta.add_to, y_TO, x_TI, 0))
        report[linear] = round(spent / _seconds(partial(base, x_TI)), 2)
    return report


@torch.inference_mode()
def _seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2044)
    parser.add_argument("--ranks", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="write the JSON there as well")
    add_dtype(parser)
    options = parser.parse_args()
    limit_threads(options.threads)
    family = load_family(family_folder(options.family))
    if family.design.kind is not StudentKind.LOWRANK:
        parser.error(f"{family.name} has no deltas: its student is {family.design.kind.value}")
    student = load_student(family.student_dir)
    block = next(index for index, each in enumerate(student.block_map) if not each.shared)
    found = qualities(family, student, options.text, options.tokens, options.ranks)
    report = {
        "family": family.name,
        "n": found["as it is"].n,
        "kl": {name: round(quality.kl, 4) for name, quality in found.items()},
        "top1": {name: round(quality.top1, 4) for name, quality in found.items()},
        "share_of_parameters": shares(student, family.rows[0].params),
        "delta_over_map_seconds": {
            f"{rows} rows": added_time(
                student.row, student.layer(block), rows, getattr(torch, options.dtype)
            )
            for rows in options.rows
        },
    }
    finish(report, options)


if __name__ == "__main__":
    main()
