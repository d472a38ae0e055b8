"""How alike the hidden states of every size and of the teacher are, at the end of each block.

Shapes: R rows, B rows at a time, L tokens a row, D hidden.

The cosine that the paper's loss raises and its analysis plots (arXiv 2510.05064, §2.2).  A size
passes every block, by its teacher layers or by its student layer, so every size has a state at the
end of every block.  In `similarity.json`:

    {"source": {…}, "sizes": [id, …], "blocks": [[teacher layer, …], …],
     "cosine": [[float, …], …], "student": [[float, …], …], "n": tokens, "provenance": {…}}

`cosine[size][block]`: mean over all tokens of the cosine of the two states at the block's end.
`student[block][layer]`: the same for the student's state at the block's end and the teacher's after
any of its layers; its largest value of a row tells which layer a student layer really stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from tqdm import tqdm

from boomerang_core.checkpoint import frozen_teacher, load_tokenizer
from boomerang_core.family import Family, family_source
from boomerang_core.layer_runner import batches
from boomerang_core.provenance import provenance
from boomerang_core.route import FamilyDesign, ladder_routes
from boomerang_core.route_runner import Prefix, RouteRunner
from boomerang_core.student import load_student
from boomerang_core.text.evaluation import Sample

_DIGITS = 4


@dataclass(frozen=True)
class Cosines:
    """`sizes[size][block]` and `student[block][layer]`, means over `n` tokens."""

    sizes: Sequence[Sequence[float]]
    student: Sequence[Sequence[float]]
    n: int


@torch.inference_mode()
def measure_similarity(
    runner: RouteRunner, design: FamilyDesign, ids_RL: torch.Tensor, label: str | None
) -> Cosines:
    """Compare every size of a ladder with the teacher on rows of tokens.

    In the model's own dtype; cosines in float32.  `label` names the progress bar; None shows none.
    """
    routes = ladder_routes(design)
    ends = [_ends(design, size) for size in range(len(routes))]
    teacher_ends = ends[-1]
    sizes = [[0.0] * len(teacher_ends) for _ in routes]
    student = [[0.0] * design.block_map.num_teacher_layers for _ in teacher_ends]
    rows = tqdm(list(batches(len(ids_RL), 1)), desc=label, unit="row", disable=label is None)
    for part in rows:
        prefix = Prefix(runner, ids_RL[part])
        teacher = prefix.states(routes[-1])
        for size, route in enumerate(routes):
            states = prefix.states(route)
            for block, (own, other) in enumerate(zip(ends[size], teacher_ends, strict=True)):
                sizes[size][block] += _cosine(states[own], teacher[other])
            if size == 0:
                for block, layer in _pairs(student):
                    student[block][layer] += _cosine(states[ends[0][block]], teacher[layer + 1])
    count = len(ids_RL)
    return Cosines(_over(sizes, count), _over(student, count), ids_RL.numel())


def similarity_record(
    family: Family, sample: Sample, device: torch.device | None = None
) -> dict[str, Any]:
    """What `similarity.json` holds, measured on a text.  Raises `CheckpointError`, `DataError`."""
    ids_RL = sample.rows(load_tokenizer(family))
    model = frozen_teacher(family, torch.float32, device)
    student = load_student(family.student_dir)
    runner = RouteRunner.of(model, student, family.design, sample.row_length)
    cosines = measure_similarity(runner, family.design, ids_RL, "cosine")
    return {
        "source": family_source(family),
        "sizes": [row.id for row in family.rows],
        "blocks": [list(block.layers) for block in family.design.block_map],
        "cosine": cosines.sizes,
        "student": cosines.student,
        "n": cosines.n,
        "provenance": provenance(family.seed, text=sample.text.name),
    }


def _ends(design: FamilyDesign, size: int) -> list[int]:
    """For each block, how many layers of the size lie before its end."""
    patched = design.ladder.patched(size)
    lengths = (
        len(block) if index in patched else 1 for index, block in enumerate(design.block_map)
    )
    return list(accumulate(lengths))


def _cosine(ours_BLD: torch.Tensor, theirs_BLD: torch.Tensor) -> float:
    cosine_BL = torch.cosine_similarity(ours_BLD.float(), theirs_BLD.float(), dim=-1)
    return cosine_BL.mean().item()


def _pairs(table: Sequence[Sequence[float]]) -> Iterator[tuple[int, int]]:
    return ((row, column) for row in range(len(table)) for column in range(len(table[row])))


def _over(sums: Sequence[Sequence[float]], count: int) -> list[list[float]]:
    """The means, to the digits that a picture can show."""
    return [[round(value / count, _DIGITS) for value in row] for row in sums]
