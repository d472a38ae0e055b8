"""Students before distillation: the kept layers, deltas that change nothing, or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from boomerang_core.architectures import Architecture, Maps, architecture_of, shallower
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import SettingsError
from boomerang_core.lowrank import A, B
from boomerang_core.route import StudentKind
from boomerang_core.student import Student, Tensors, check_depth, ends_of, student_from_model


def initial_student(
    teacher: Any,
    block_map: BlockMap,
    kind: StudentKind,
    rank: int,
    own_embeddings: bool,
    maps: Maps = Maps.ALL,
) -> Student:
    """A student before distillation: copies of the kept layers, or deltas that change nothing.

    `rank` is that of low-rank deltas, at most the linear map's own, and `maps` are those that have
    one; A is random (torch's global generator), B zero.  Tensors have the teacher's dtype.  Raises
    `CheckpointError` where the block map is for a teacher of another depth.
    """
    row = architecture_of(teacher.config)
    check_depth(block_map, teacher, row)
    tensors: Tensors = {}
    for index, block in enumerate(block_map):
        if block.shared:
            continue
        layer = dict(teacher.get_submodule(row.layers)[block.kept].named_parameters())
        own = layer if kind is StudentKind.FULL else _no_deltas(layer, row, rank, maps)
        tensors |= {row.layer_name(index, name): tensor for name, tensor in own.items()}
    if own_embeddings:
        tensors |= ends_of(teacher, row)
    copied = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    return Student(row.name, kind, block_map, own_embeddings, copied)


def random_student(teacher: Any, block_map: BlockMap, own_embeddings: bool) -> Student:
    """A `full` student of random weights, drawn as its architecture draws them.

    The paper's control (arXiv 2510.05064, section 4): the same training without the teacher's
    layers to start from.  Torch's global generator; the teacher's dtype and device.
    """
    from transformers import AutoModelForCausalLM

    row = architecture_of(teacher.config)
    check_depth(block_map, teacher, row)
    config = shallower(teacher.config, [block.kept for block in block_map])
    model = AutoModelForCausalLM.from_config(config).to(teacher.get_submodule(row.norm).weight)
    drawn = student_from_model(model, teacher, block_map)
    ends = () if own_embeddings else ends_of(teacher, row)
    tensors = {name: t.detach() for name, t in drawn.tensors.items() if name not in ends}
    return replace(drawn, own_embeddings=own_embeddings, tensors=tensors)


def _no_deltas(
    layer: Mapping[str, torch.Tensor], row: Architecture, rank: int, maps: Maps
) -> Tensors:
    """A layer's norms, and factors of zero for each of those linear maps."""
    if rank < 1:
        raise SettingsError(f"the rank must be at least 1, got {rank}")
    own = {name: layer[name] for name in layer if name.rpartition(".")[0] in row.norms}
    for linear in row.maps(maps):
        weight = layer[f"{linear}.weight"]
        outputs, inputs = reversed(weight.shape) if row.conv1d else weight.shape
        r = min(rank, outputs, inputs)
        # unit variance out of unit variance in, so that the rate of B does not depend on the width
        own[linear + A] = torch.randn(r, inputs, device=weight.device).to(weight) / inputs**0.5
        own[linear + B] = weight.new_zeros(outputs, r)
    return own
