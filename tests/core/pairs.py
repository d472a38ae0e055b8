"""Pairs of a tiny teacher and a student cut from it, as checkpoint folders; plain transformers."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from boomerang_core.architectures import architecture_of
from boomerang_core.checkpoint import parse_teacher
from boomerang_core.importing import Pair
from tests.core.conftest import tiny_teacher, tiny_tokenizer

KEPT = [0, 2, 4, 5]  # of 6 layers: blocks of layers 0-1, 2-3, 4 and 5


def cut(teacher: Any, kept: list[int], noise: float = 0.1) -> Any:
    """A student as the paper's code makes one: some of the teacher's layers, trained (here: moved).

    Plain transformers, so that it does not share our code.
    """
    row = architecture_of(teacher.config)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept]
    torch.manual_seed(1)
    student = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    student.load_state_dict(teacher.state_dict(), strict=False)
    layers = zip(student.get_submodule(row.layers), kept, strict=True)
    for layer, origin in layers:
        layer.load_state_dict(teacher.get_submodule(row.layers)[origin].state_dict())
    for parameter in student.parameters():
        parameter += noise * torch.randn_like(parameter)
    return student


def write_pair(root: Path, teacher: Any, student: Any, kept: list[int] | None = KEPT) -> None:
    """Both as checkpoint folders; `kept` as the paper's `train.py` writes it."""
    for model, name in ((teacher, "teacher"), (student, "student")):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    if kept is not None:
        rest = [layer for layer in range(teacher.config.num_hidden_layers) if layer not in kept]
        record = {"pruned_teacher_layers": rest, "copied_teacher_layers": kept}
        (root / "student" / "student_config.json").write_text(json.dumps(record))


def write_tiny_pair(root: Path, name: str) -> None:
    """The pair of an architecture of the tests; its student says which layers it keeps."""
    teacher = tiny_teacher(name, True)
    write_pair(root, teacher, cut(teacher, KEPT))


def pair(root: Path, **options: Any) -> Pair:
    folders = (parse_teacher(str(root / name)) for name in ("teacher", "student"))
    return Pair(*folders, **options)


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "student" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit
