"""Students: one layer a block, as tensors by name; made from a teacher, saved, loaded, checked.

    student/model.safetensors   tensors, named as the teacher's, the block's index for the layer's
    student/student.json        format, architecture, kind, block map

`full`: every tensor of every block that is not shared; also embedding, final norm and (untied)
head where the student owns them.  `lowrank`: `….lora_A` (r, in) and `….lora_B` (out, r) of linear
maps, so that W becomes W + B A, or a map's own `….weight` instead, and the layer's norms; what it
leaves out is the kept teacher layer's.  Shared blocks have no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from boomerang_core.architectures import ARCHITECTURES, Architecture, architecture_of
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import BlockMapError, CheckpointError, SettingsError
from boomerang_core.files import save_json, save_tensors
from boomerang_core.lowrank import A, B, dense_weights
from boomerang_core.route import StudentKind

FORMAT = 1
TENSORS = "model.safetensors"
INDEX = "student.json"

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, torch.Size]


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Student:
    """A student's tensors and what they stand for; `check` holds it against a teacher."""

    architecture: str
    kind: StudentKind
    block_map: BlockMap
    own_embeddings: bool
    tensors: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        if self.own_embeddings and self.kind is StudentKind.LOWRANK:
            raise SettingsError("a low-rank student uses the teacher's embeddings")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(f"the student's architecture {self.architecture!r} has no row")

    @property
    def row(self) -> Architecture:
        """The row of its architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def num_params(self) -> int:
        """Parameters that the student adds to the teacher."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def layer(self, block: int) -> Tensors:
        """The tensors of one block, named relative to the layer."""
        prefix = self.row.layer_name(block, "")
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> Student:
        """The student with some tensors replaced.  Raises `CheckpointError` for a new name."""
        if unknown := sorted(tensors.keys() - self.tensors.keys()):
            raise CheckpointError(f"the student has no tensor {unknown[0]}")
        return replace(self, tensors={**self.tensors, **tensors})

    def to(self, like: torch.Tensor) -> Student:
        """In the dtype and on the device of `like`; what is there already is not copied."""
        moved = {n: t.to(device=like.device, dtype=like.dtype) for n, t in self.tensors.items()}
        return replace(self, tensors=moved)

    def check(self, teacher: Any) -> None:
        """Raise `CheckpointError`, naming the tensor, unless the student fits the teacher."""
        row = architecture_of(teacher.config)
        if row.name != self.architecture:
            raise CheckpointError(f"the student is a {self.architecture}, the teacher a {row.name}")
        check_depth(self.block_map, teacher, row)
        required, optional = _expected(self, teacher, row)
        if missing := sorted(required.keys() - self.tensors.keys()):
            raise CheckpointError(f"the student lacks {missing[0]}")
        for name, tensor in self.tensors.items():
            expected = required.get(name) or optional.get(name)
            if expected is None:
                raise CheckpointError(f"the student has a tensor that it should not have: {name}")
            _check_shape(name, tensor, expected, self.tensors)


def merged_layer(
    base: Mapping[str, torch.Tensor], deltas: Mapping[str, torch.Tensor], row: Architecture
) -> Tensors:
    """A low-rank student's effective layer: W + B A for each linear map, its own norms, rest base.

    `base` is the kept teacher layer's state dict, `deltas` is `Student.layer`.  Summed in float32,
    in the dtype of `base`.  Nothing that is not changed is copied.
    """
    touched = {name: tensor.float() for name, tensor in base.items() if _is_touched(name, deltas)}
    own = {name: tensor.float() for name, tensor in deltas.items()}
    changed = dense_weights(touched, own, row.conv1d)
    return {**base, **{name: value.to(base[name].dtype) for name, value in changed.items()}}


def _is_touched(name: str, deltas: Mapping[str, torch.Tensor]) -> bool:
    return name.removesuffix(".weight") + A in deltas


def student_from_model(model: Any, teacher: Any, block_map: BlockMap) -> Student:
    """A `full` student with its own embeddings out of a checkpoint of one layer a block.

    That is how the paper's students are released.  The tensors are referenced, not copied; those
    of shared blocks are dropped.  Raises `CheckpointError` where it does not fit the teacher.
    """
    row = architecture_of(teacher.config)
    _require_layers(len(model.get_submodule(row.layers)), len(block_map), "student")
    tensors: Tensors = {}
    for index, block in enumerate(block_map):
        if not block.shared:
            layer = model.get_submodule(row.layers)[index]
            tensors |= {row.layer_name(index, n): t for n, t in layer.named_parameters()}
    tensors |= ends_of(model, row)
    student = Student(
        architecture_of(model.config).name, StudentKind.FULL, block_map, True, tensors
    )
    student.check(teacher)
    return student


def save_student(student: Student, folder: Path) -> None:
    """Write the student's two files, each whole or absent; `student.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({name: t.detach() for name, t in student.tensors.items()}, folder / TENSORS)
    record = {
        "format": FORMAT,
        "architecture": student.architecture,
        "kind": student.kind.value,
        "own_embeddings": student.own_embeddings,
        "blocks": student.block_map.to_json(),
    }
    save_json(record, folder / INDEX)


def load_student(folder: Path) -> Student:
    """Read a student as it was saved.  Raises `CheckpointError` where that is not possible."""
    path = folder / INDEX
    for file in (path, folder / TENSORS):
        if not file.is_file():
            raise CheckpointError(f"{folder} is not a student: it lacks {file.name}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise CheckpointError(f"{path} must have format {FORMAT}, not {record['format']!r}")
        return Student(
            architecture=str(record["architecture"]),
            kind=StudentKind(record["kind"]),
            block_map=BlockMap.from_json(record["blocks"]),
            own_embeddings=bool(record["own_embeddings"]),
            tensors=load_file(folder / TENSORS),
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the student in {folder}: {error}") from error
    except (ValueError, KeyError, TypeError, BlockMapError, SettingsError) as error:
        raise CheckpointError(f"{path} is malformed: {error}") from error


def ends_of(model: Any, row: Architecture) -> Tensors:
    """Embeddings and final norm by name, and the LM head where it is not tied."""
    heads = () if model.config.tie_word_embeddings else (row.head,)
    return {
        f"{path}.{name}": tensor
        for path in (*row.embeddings, row.norm, *heads)
        for name, tensor in model.get_submodule(path).named_parameters()
    }


def _expected(student: Student, teacher: Any, row: Architecture) -> tuple[Shapes, Shapes]:
    """Shapes of the tensors that a student must and may have; a rank is written as -1."""
    required: Shapes = {}
    optional: Shapes = {}
    layers = teacher.get_submodule(row.layers)
    for index, block in enumerate(student.block_map):
        if block.shared:
            continue
        shapes = {name: p.shape for name, p in layers[block.kept].named_parameters()}
        if student.kind is StudentKind.FULL:
            required |= {row.layer_name(index, n): shape for n, shape in shapes.items()}
        else:
            optional |= {row.layer_name(index, n): s for n, s in _lowrank_shapes(shapes, row)}
    if student.own_embeddings:
        required |= {name: tensor.shape for name, tensor in ends_of(teacher, row).items()}
    return required, optional


def _lowrank_shapes(shapes: Mapping[str, torch.Size], row: Architecture) -> Iterator[Any]:
    yield from (
        (name, shape) for name, shape in shapes.items() if name.rpartition(".")[0] in row.norms
    )
    for linear in row.linear_maps:
        shape = shapes[f"{linear}.weight"]
        outputs, inputs = reversed(shape) if row.conv1d else shape
        yield f"{linear}.weight", shape
        yield linear + A, (-1, inputs)
        yield linear + B, (outputs, -1)


def _check_shape(
    name: str, tensor: torch.Tensor, expected: torch.Size, tensors: Mapping[str, torch.Tensor]
) -> None:
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(
        want not in (-1, size) for size, want in zip(shape, expected, strict=True)
    ):
        wanted = str(tuple(expected)).replace("-1", "rank")
        raise CheckpointError(f"the student's {name} has shape {shape}, the teacher needs {wanted}")
    if name.endswith((A, B)):
        stem = name.removesuffix(A).removesuffix(B)
        if stem + A not in tensors or stem + B not in tensors:
            raise CheckpointError(f"the student has only one of {stem}{A} and {stem}{B}")
        if f"{stem}.weight" in tensors:
            raise CheckpointError(f"the student has both {stem}{A} and {stem}.weight")
        if tensors[stem + A].shape[0] != tensors[stem + B].shape[-1]:
            raise CheckpointError(f"the student's {stem}{A} and {stem}{B} differ in rank")


def check_depth(block_map: BlockMap, teacher: Any, row: Architecture) -> None:
    layers = len(teacher.get_submodule(row.layers))
    _require_layers(layers, block_map.num_teacher_layers, "teacher")


def _require_layers(found: int, wanted: int, who: str) -> None:
    if found != wanted:
        raise CheckpointError(f"the {who} has {found} layers, the block map needs {wanted}")
