"""A family of random weights at the shape of a larger model, to time engines on.

    python -m bench.random_family qwen3-4b --out FOLDER [--rank 64] [--maps mlp] [--sizes 5]
                                           [--device cuda]

Teacher and low-rank student, the paper's layout and order, bfloat16, no tokenizer; what it answers
means nothing, what it costs is what the real one would cost.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from bench.gpu_layers.routes import SHAPES, Shape, family_design
from bench.run import spread
from boomerang_core.architectures import Maps, model_shape
from boomerang_core.family import Family, build_rows, load_family, write_family
from boomerang_core.initial_student import initial_student
from boomerang_core.lowrank import B
from boomerang_core.route import StudentKind
from boomerang_core.student import save_student
from boomerang_core.teacher_ref import TeacherRef

SMALL = Shape("135m", 30, 576, 1536, 9, 3, 64, 49_152, tied=True)
"""A small model, beside whose steps all that is done around them is large."""

_SHAPES = {SMALL.name: SMALL, **SHAPES}


def config_of(shape: Shape) -> Any:
    """A Qwen3 configuration of that shape."""
    return Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        dtype="bfloat16",
    )


def random_family(
    shape: Shape, rank: int, maps: Maps, offered: int, folder: Path, device: str
) -> Family:
    """Write the family and load it; so many of its sizes are offered."""
    torch.manual_seed(0)
    with torch.device(device):
        teacher = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    teacher.save_pretrained(folder / "weights")
    design = family_design(shape, StudentKind.LOWRANK)
    student = initial_student(
        teacher, design.block_map, design.kind, rank, own_embeddings=False, maps=maps
    )
    for name, tensor in student.tensors.items():
        if name.endswith(B):  # drawn, so that the student is not the kept layers alone
            tensor.normal_(std=0.02 / rank**0.5)
    save_student(student, folder / "family" / "student")
    described = model_shape(teacher)
    rows = build_rows(design, described)
    chosen = spread(len(rows), offered)
    rows = tuple(replace(row, offered=row.size in chosen) for row in rows)
    family = Family(
        name=shape.name,
        architecture=student.architecture,
        design=design,
        shape=described,
        rows=rows,
        teacher=TeacherRef("folder", str((folder / "weights").resolve())),
        student_params=student.num_params,
        footprint_tokens=2048,
        default_size=len(rows) - 1,
    )
    write_family(family, folder / "family")
    return load_family(folder / "family")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shape", choices=_SHAPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--maps", choices=list(Maps), default=Maps.ALL, help="those with deltas")
    parser.add_argument("--sizes", type=int, default=5, help="how many are offered: default 5")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    family = random_family(
        _SHAPES[options.shape],
        options.rank,
        Maps(options.maps),
        options.sizes,
        options.out,
        options.device,
    )
    print(family.root)


if __name__ == "__main__":
    main()
