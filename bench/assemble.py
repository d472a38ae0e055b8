"""Assembling every size of a family: by reference (ours) and by deep copy (the reference's way).

    python -m bench.assemble FAMILY

Prints JSON: per size the seconds and the bytes of new tensors of both ways, on a teacher and a
student that are loaded already.  Every size is built once unmeasured, then `REPEATS` times; the
median counts.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.architectures import architecture_of, shallower
from boomerang_core.assemble import assemble, place_layers
from boomerang_core.checkpoint import load_teacher
from boomerang_core.cli import family_folder
from boomerang_core.errors import BoomerangError
from boomerang_core.family import load_family
from boomerang_core.provenance import provenance
from boomerang_core.route import LayerRef, Owner, Route, StudentKind, build_route
from boomerang_core.sizes import SizeRow
from boomerang_core.student import Student, load_student, merged_layer

REPEATS = 3


def student_model(teacher: Any, student: Student) -> Any:
    """The student as a plain transformers model of its own, which the reference loads from disk."""
    row = architecture_of(teacher.config)
    kept = [block.kept for block in student.block_map]
    model = type(teacher)(shallower(teacher.config, kept)).to(teacher.dtype)
    state = {n: t for n, t in teacher.state_dict().items() if not n.startswith(f"{row.layers}.")}
    for index, layer in enumerate(kept):
        tensors = teacher.get_submodule(row.layers)[layer].state_dict()
        own = student.layer(index)
        lowrank = student.kind is StudentKind.LOWRANK
        tensors = merged_layer(tensors, own, row) if lowrank else {**tensors, **own}
        state |= {row.layer_name(index, name): tensor for name, tensor in tensors.items()}
    if student.own_embeddings:
        state |= {n: t for n, t in student.tensors.items() if not n.startswith(row.layers)}
        if teacher.config.tie_word_embeddings:
            state[f"{row.head}.weight"] = state[f"{row.embedding}.weight"]
    model.load_state_dict(state)
    return model.eval()


def naive_build(teacher: Any, student: Any, route: Route) -> Any:
    """A route's model as the reference builds it: deep copies of both models' modules.

    `student` is a transformers model with one layer a block (`student_model`).
    """
    row = architecture_of(teacher.config)
    owners = {Owner.TEACHER: teacher, Owner.STUDENT: student}
    model = copy.deepcopy(student)

    def source(ref: LayerRef) -> Any:
        return owners[ref.owner].get_submodule(row.layers)[ref.index]

    layers = nn.ModuleList(copy.deepcopy(source(ref)) for ref in route.layers)
    place_layers(layers)
    model.set_submodule(row.layers, layers)
    for path in row.embeddings:
        model.set_submodule(path, copy.deepcopy(owners[route.embedding].get_submodule(path)))
    for path in (row.norm, row.head):
        model.set_submodule(path, copy.deepcopy(owners[route.head].get_submodule(path)))
    setattr(model.config, row.num_layers, len(layers))
    for name in row.per_layer:
        values = [getattr(owners[r.owner].config, name)[r.index] for r in route.layers]
        setattr(model.config, name, values)
    return model


def storages(*models: Any) -> dict[int, int]:
    """Address → bytes of every parameter's storage, each once."""
    parameters = (p.untyped_storage() for model in models for p in model.parameters())
    return {storage.data_ptr(): storage.nbytes() for storage in parameters}


def new_bytes(model: Any, *sources: Any) -> int:
    """Bytes of the model's parameters that are in storages of none of the sources."""
    known = storages(*sources)
    return sum(size for address, size in storages(model).items() if address not in known)


def measure(build: Callable[[], Any], count: Callable[[Any], int]) -> dict[str, Any]:
    """Median seconds of `build`, and the bytes that `count` finds in what it builds."""
    copied = count(build())
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        build()
        seconds.append(time.perf_counter() - start)
    return {"seconds": round(statistics.median(seconds), 5), "bytes_copied": copied}


def run(folder: Path) -> dict[str, Any]:
    """Every size of the family, both ways."""
    family = load_family(folder)
    teacher = load_teacher(family)
    student = load_student(family.student_dir)
    student = student.to(next(teacher.parameters()))
    plain = student_model(teacher, student)
    factors = nn.ParameterList(nn.Parameter(t, False) for t in student.tensors.values())

    def compare(row: SizeRow) -> dict[str, Any]:
        route = build_route(family.design, row.size)
        ours = measure(
            lambda: assemble(teacher, student, route),
            lambda model: new_bytes(model, teacher, factors),
        )
        theirs = measure(
            lambda: naive_build(teacher, plain, route),
            lambda model: new_bytes(model, teacher, plain),
        )
        return {"size": row.id, "by_reference": ours, "deep_copy": theirs}

    rows = [compare(row) for row in family.rows]
    return {"family": family.name, "sizes": rows, **provenance(seed=0, repeats=REPEATS)}


def main() -> int:
    """Command line; 2 for a user's error."""
    if len(sys.argv) != 2:
        print("usage: python -m bench.assemble FAMILY", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    try:
        print(json.dumps(run(family_folder(Path(sys.argv[1]))), indent=2))
    except BoomerangError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
