"""The whole loss of a step and its gradients, against a plain computation in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boomerang_core.distill.distiller import Distiller
from boomerang_core.distill.objective import Objective
from boomerang_core.route import StudentKind
from tests.core import plain_llama
from tests.core.conftest import BLOCKS, tiny_design, tiny_student, tiny_teacher
from tests.core.tiny_run import ROW, tiny_rows

PUBLISHED = Objective(cross_entropy=1.0, kl=0.1, alignment=2.0, aligned_by="cosine")
ROUTES: dict[int, list[tuple[str, int]]] = {
    0: [("student", 0), ("teacher", 2), ("student", 2), ("student", 3)],
    1: [("student", 0), ("teacher", 2), ("teacher", 3), ("teacher", 4), ("teacher", 5)],
}
"""Sizes 0 and 1 of the tests' ladder written out: block 1 is shared, and size 1 patches 3 and 2."""
KEPT, ENDS = (1, 2, 3, 4), (1, 2, 3, 5)
"""The teacher layer that a block's student starts from, and the block's last one."""
TOLERANCE = 1e-5
"""Of the loss, and of each gradient's distance by its norm.  Ours is in float32, as training is:
norms, logits and states are, even of a model in float64."""


def part(tensors: plain_llama.Weights, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def student_layer(own: plain_llama.Weights, base: plain_llama.Weights) -> dict[str, torch.Tensor]:
    """A student's layer with dense weights: W + B A of the maps that it changes."""
    weights = {**base, **{name: t for name, t in own.items() if "lora_" not in name}}
    for name in own:
        if name.endswith(".lora_A"):
            linear = name.removesuffix(".lora_A")
            change = own[f"{linear}.lora_B"] @ own[name]
            weights[f"{linear}.weight"] = base[f"{linear}.weight"] + change
    return weights


def plain_loss(
    teacher: plain_llama.Weights,
    own: plain_llama.Weights,
    config: Any,
    size: int,
    ids_BL: torch.Tensor,
) -> torch.Tensor:
    """The loss of one size, from the tensors of teacher and student by name."""
    ends = {"teacher": teacher, "student": own if "model.norm.weight" in own else teacher}

    def weights(owner: str, index: int) -> dict[str, torch.Tensor]:
        if owner == "teacher":
            return part(teacher, f"model.layers.{index}.")
        base = part(teacher, f"model.layers.{KEPT[index]}.")
        return student_layer(part(own, f"model.layers.{index}."), base)

    targets = [teacher["model.embed_tokens.weight"][ids_BL]]
    for index in range(config.num_hidden_layers):
        targets.append(plain_llama.layer(targets[-1], weights("teacher", index), config))
    hidden_BLD = ends["student"]["model.embed_tokens.weight"][ids_BL]
    pairs = [(hidden_BLD, targets[0])] if ends["student"] is own else []
    for owner, index in ROUTES[size]:
        hidden_BLD = plain_llama.layer(hidden_BLD, weights(owner, index), config)
        if owner == "student":
            pairs.append((hidden_BLD, targets[ENDS[index] + 1]))
    head = ends[ROUTES[size][-1][0]]
    return plain_llama.published_loss(
        plain_llama.log_probabilities(hidden_BLD, head, config),
        plain_llama.log_probabilities(targets[-1], teacher, config),
        pairs,
        ids_BL,
    )


@pytest.mark.parametrize("size", ROUTES)
@pytest.mark.parametrize(("kind", "ends"), [("full", True), ("full", False), ("lowrank", False)])
def test_loss_and_gradients_are_those_of_a_plain_computation_in_float64(
    kind: str, ends: bool, size: int
) -> None:
    assert [block.kept for block in BLOCKS] == list(KEPT)
    teacher = tiny_teacher("llama", True)
    student = tiny_student(teacher, StudentKind(kind), ends)
    ids_BL = tiny_rows().clamp_min(1)  # the embedding of padding is zero: it has no direction

    own = {name: torch.nn.Parameter(t.detach().clone()) for name, t in student.tensors.items()}
    design = tiny_design(StudentKind(kind), ends)
    distiller = Distiller(teacher, student.with_tensors(own), design, PUBLISHED, ROW)
    loss = distiller(ids_BL, size)["loss"]
    loss.backward()

    wide = {name: t.detach().double().requires_grad_() for name, t in student.tensors.items()}
    frozen = {name: t.double() for name, t in teacher.state_dict().items()}
    expected = plain_loss(frozen, wide, teacher.config, size, ids_BL)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    for name, tensor in wide.items():
        found = own[name].grad
        assert (found is None or not found.any()) is (tensor.grad is None), name
        if tensor.grad is not None:
            assert (found - tensor.grad).norm() <= TOLERANCE * tensor.grad.norm(), name
