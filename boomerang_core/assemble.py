"""Assemble a size from teacher and student BY REFERENCE, and export it as a checkpoint.

An assembled model is a tree of new module shells around the very tensors of teacher and student:
no weight is copied, and an edit of a teacher weight shows in every size.  The shells are needed
because a layer's place differs between sizes, and attention modules carry their place in the KV
cache (`layer_idx`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.architectures import Architecture, architecture_of, shallower
from boomerang_core.checkpoint import load_teacher, teacher_folder
from boomerang_core.checkpoint_files import copy_companions
from boomerang_core.errors import CheckpointError
from boomerang_core.family import Family
from boomerang_core.files import save_json
from boomerang_core.folders import require_unused, write_folder
from boomerang_core.lowrank import A, B
from boomerang_core.own_teacher import require_own_teacher
from boomerang_core.provenance import provenance
from boomerang_core.route import LayerRef, Owner, Route, StudentKind, build_route
from boomerang_core.student import Student, load_student, merged_layer

PROVENANCE = "boomerang.json"


class LowRankLinear(nn.Module):
    """A teacher's linear map with a low-rank change: y = base(x) + B A x."""

    def __init__(self, base: nn.Module, lora_A: nn.Parameter, lora_B: nn.Parameter) -> None:
        """`base` is a linear map or a Conv1D, with its bias; A is (r, in), B is (out, r)."""
        super().__init__()
        self.base = base
        self.lora_A = lora_A
        self.lora_B = lora_B

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        base: torch.Tensor = self.base(x)
        linear = nn.functional.linear
        return base + linear(linear(x, self.lora_A), self.lora_B)


def assemble(teacher: Any, student: Student, route: Route, merged: bool = False) -> Any:
    """The transformers model of a route, sharing every tensor with teacher and student.

    Args:
        teacher: the transformers model; it is only referenced.
        student: fits the teacher, or `CheckpointError` is raised.  Where its dtype or device is
            not the teacher's it is converted, which copies it: call `student.to` once instead.
        route: which layers, in which order, and the owners of embedding and head.
        merged: low-rank layers get dense weights W + B A (new tensors) and plain linear maps.
    """
    student.check(teacher)
    row = architecture_of(teacher.config)
    student = _with_parameters(student.to(teacher.get_submodule(row.embedding).weight))
    config = route_config(teacher.config, route, student)
    layers = teacher.get_submodule(row.layers)
    model = _shell(teacher, teacher.config, config, leave_out=layers)
    chosen = [_layer(layers, student, ref, merged) for ref in route.layers]
    placed = [_shell(layer, teacher.config, config) for layer in chosen]
    place_layers(placed)
    _set_module(model, row.layers, nn.ModuleList(placed))
    _set_ends(model, student, route, row)
    model.config = config
    model.generation_config = copy.deepcopy(teacher.generation_config)
    model.all_tied_weights_keys = (
        dict(teacher.all_tied_weights_keys) if config.tie_word_embeddings else {}
    )
    return model


def place_layers(layers: Iterable[Any]) -> None:
    """Tell attention modules their layer's place, which is their place in the KV cache."""
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if "layer_idx" in module.__dict__:
                module.__dict__["layer_idx"] = place  # a module's own __setattr__ is slow


def route_config(config: Any, route: Route, student: Student) -> Any:
    """The teacher's config cut to a route: depth, per-layer lists, and whether it is tied.

    A student layer has the per-layer settings of its kept layer.
    """
    blocks = student.block_map
    sources = [r.index if r.owner is Owner.TEACHER else blocks[r.index].kept for r in route.layers]
    cut = shallower(config, sources)
    cut.tie_word_embeddings = bool(config.tie_word_embeddings) and route.embedding is route.head
    return cut


def export(family: Family, size: int, out: Path, dtype: torch.dtype | None = None) -> None:
    """Write a size as a checkpoint of its own, for plain transformers and plain vLLM.

    Low-rank layers are merged, embedding and head are untied where their owners differ, tokenizer
    and generation config are the teacher's, and `boomerang.json` says where it comes from.
    `dtype` None keeps the teacher's.  Raises `CheckpointError` where `out` exists and is not an
    empty folder, `LadderError` for a size that the family does not have, `FamilyError` where the
    teacher is not this family's, `WriteError` where the disk is full.
    """
    route = build_route(family.design, size)
    require_unused(out)  # before the slow part
    require_own_teacher(family)
    folder = teacher_folder(family)
    student = load_student(family.student_dir)
    design = family.design
    if (student.kind, student.block_map) != (design.kind, design.block_map):
        raise CheckpointError(f"the student in {family.student_dir} is of another design")
    teacher = load_teacher(folder, dtype)
    model = assemble(teacher, student, route, merged=True)
    # the teacher's own file is copied: transformers refuses to save some that it still loads
    model.generation_config = type(model.generation_config).from_model_config(model.config)

    def fill(temporary: Path) -> None:
        model.save_pretrained(temporary)
        copy_companions(folder, temporary)
        save_json(_origin(family, size, route), temporary / PROVENANCE)

    write_folder(out, fill)


def _origin(family: Family, size: int, route: Route) -> dict[str, Any]:
    row = family.rows[size]
    return provenance(
        family.seed,
        family=family.name,
        size=row.id,
        layers=[f"{ref.owner.value} {ref.index}" for ref in route.layers],
        embedding=route.embedding.value,
        head=route.head.value,
        params=row.params,
        quality=None if row.quality is None else asdict(row.quality),
        made=dict(family.provenance),
    )


def _shell(module: Any, old: Any, new: Any, leave_out: Any = None) -> Any:
    """A copy of a module tree around the same parameters and buffers, with config `new` for `old`.

    `leave_out` is one submodule that is not descended into.  Hooks stay behind: they belong to
    whoever hooked the original.
    """
    twin = copy.copy(module)
    state = twin.__dict__
    for name, value in module.__dict__.items():
        if name.startswith(("_forward_", "_backward_")) and "hooks" in name:
            state[name] = type(value)()
    state.pop("_output_capturing_hooks_installed", None)
    if old is not None and state.get("config") is old:
        state["config"] = new
    state["_parameters"] = dict(module._parameters)
    state["_buffers"] = dict(module._buffers)
    state["_modules"] = {
        name: child if child is None or child is leave_out else _shell(child, old, new, leave_out)
        for name, child in module._modules.items()
    }
    return twin


def _layer(layers: Any, student: Student, ref: LayerRef, merged: bool) -> Any:
    """The layer that a reference names: the teacher's own, or a shell around the student's."""
    if ref.owner is Owner.TEACHER:
        return layers[ref.index]
    base = layers[student.block_map[ref.index].kept]
    own: Mapping[str, torch.Tensor] = student.layer(ref.index)
    layer = _shell(base, None, None)
    if student.kind is StudentKind.LOWRANK and merged:
        weights = dict(base.named_parameters())
        effective = merged_layer(
            {name: p.detach() for name, p in weights.items()}, own, student.row
        )
        own = {
            name: tensor
            for name, tensor in effective.items()
            if tensor.data_ptr() != weights[name].data_ptr()
        }
    for name, tensor in own.items():
        if name.endswith(A):
            path = name.removesuffix(A)
            factors = _parameter(tensor), _parameter(own[path + B])
            _set_module(layer, path, LowRankLinear(layer.get_submodule(path), *factors))
        elif not name.endswith(B):
            _set_parameter(layer, name, tensor)
    return layer


def _set_ends(model: Any, student: Student, route: Route, row: Architecture) -> None:
    """Put the student's embedding, final norm and head where the route says so."""
    paths: list[str] = []
    if route.embedding is Owner.STUDENT:
        paths += row.embeddings
    if route.head is Owner.STUDENT:
        paths += [row.norm, row.head]
    for path in paths:
        for name, _ in list(model.get_submodule(path).named_parameters()):
            # a tied student stores one matrix, under the embedding's name
            stored = student.tensors.get(f"{path}.{name}")
            tensor = student.tensors[f"{row.embedding}.weight"] if stored is None else stored
            _set_parameter(model, f"{path}.{name}", tensor)


def _set_parameter(root: Any, name: str, tensor: torch.Tensor) -> None:
    path, _, last = name.rpartition(".")
    root.get_submodule(path)._parameters[last] = _parameter(tensor)


def _set_module(root: Any, path: str, module: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    root.get_submodule(parent)._modules[last] = module


def _with_parameters(student: Student) -> Student:
    """The student with one parameter for each tensor, so that a tied matrix is one parameter."""
    return student.with_tensors({name: _parameter(t) for name, t in student.tensors.items()})


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    """The tensor as a parameter on the same storage; one that is a parameter stays itself."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
