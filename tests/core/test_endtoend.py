"""End-to-end distillation: the module of a step, the schedule, and what a run learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from boomerang_core.assemble import assemble
from boomerang_core.distill.distiller import Distiller
from boomerang_core.distill.endtoend import distill
from boomerang_core.distill.objective import Objective
from boomerang_core.distill.schedule import EndToEnd, Schedule
from boomerang_core.errors import SettingsError
from boomerang_core.route import FamilyDesign, Owner, StudentKind, build_route
from boomerang_core.student import Student
from tests.core.conftest import BLOCKS, tiny_student, tiny_teacher
from tests.core.tiny_run import ROW, SETTINGS, metrics, same, shared_end, start, tiny_rows, told


@pytest.fixture(params=["full", "lowrank", "own embeddings"])
def case(request: pytest.FixtureRequest, teacher: Any) -> tuple[Student, FamilyDesign]:
    """A student of each kind before distillation, and its design."""
    own = request.param == "own embeddings"
    return start(teacher, StudentKind.FULL if own else StudentKind(request.param), own)


@pytest.fixture
def teacher() -> Any:
    return tiny_teacher("llama", True)


@pytest.fixture
def rows() -> torch.Tensor:
    return tiny_rows()


def states_of(model: Any, rows: torch.Tensor) -> list[torch.Tensor]:
    """The hidden states before the first layer and behind each, as the model itself makes them."""
    states: list[torch.Tensor] = []
    layers = model.model.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))]
    hooks += [layer.register_forward_hook(lambda *call: states.append(call[2])) for layer in layers]
    model(rows)
    for hook in hooks:
        hook.remove()
    return states


class TestDistiller:
    def test_a_size_is_the_assembled_model(
        self, case: tuple[Student, FamilyDesign], teacher: Any, rows: torch.Tensor
    ) -> None:
        student, design = case
        distiller = Distiller(teacher, student, design, Objective(), ROW)
        for size in range(design.ladder.num_sizes - 1):
            logits = assemble(teacher, student, build_route(design, size))(rows).logits[:, :-1]
            loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            found = distiller(rows, size)["cross_entropy"]
            assert found.item() == pytest.approx(loss.item(), abs=1e-5)

    @pytest.mark.parametrize("own", [False, True])
    def test_the_students_states_are_aligned(
        self, own: bool, teacher: Any, rows: torch.Tensor
    ) -> None:
        """Behind each student layer, and behind the embedding where that is the student's."""
        student = tiny_student(teacher, StudentKind.FULL, own)
        design = FamilyDesign(BLOCKS, start(teacher, student.kind)[1].ladder, student.kind, own)
        targets = states_of(teacher, rows)
        distiller = Distiller(teacher, student, design, Objective(aligned_by="cosine"), ROW)
        for size in range(design.ladder.num_sizes - 1):
            route = build_route(design, size)
            states = states_of(assemble(teacher, student, route), rows)
            pairs = [(states[0], targets[0])] if route.embedding is Owner.STUDENT else []
            pairs += [
                (states[place + 1], targets[BLOCKS[ref.index].stop])
                for place, ref in enumerate(route.layers)
                if ref.owner is Owner.STUDENT
            ]
            expected = [1 - functional.cosine_similarity(*pair, dim=-1).mean() for pair in pairs]
            found = distiller(rows, size)["alignment"]
            assert found.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)

    def test_gradients_reach_the_students_tensors_alone(
        self, case: tuple[Student, FamilyDesign], teacher: Any, rows: torch.Tensor
    ) -> None:
        student, design = case
        own = {name: torch.nn.Parameter(t.clone()) for name, t in student.tensors.items()}
        distiller = Distiller(teacher, student.with_tensors(own), design, Objective(), ROW)
        distiller(rows, 0)["loss"].backward()
        assert all(parameter.grad is not None for parameter in own.values())
        assert all(parameter.grad is None for parameter in teacher.parameters())

    def test_a_head_of_which_nothing_is_asked_has_no_gradient(
        self, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        """Weight decay would shrink it with one of zero."""
        teacher, aligned = tiny_teacher("llama", False), Objective(kl=0.0, aligned_by="cosine")
        student, design = start(teacher, StudentKind.FULL, own=True)
        settings = replace(SETTINGS, objective=aligned, weight_decay=0.1)
        trained = distill(teacher, student, design, rows, settings, 0, tmp_path)
        ends = [name for name in student.tensors if name in ("model.norm.weight", "lm_head.weight")]
        assert len(ends) == 2
        for name, tensor in student.tensors.items():
            assert torch.equal(trained.tensors[name], tensor) is (name in ends), name
        assert "student/kl" not in metrics(tmp_path)[0]

    @pytest.mark.parametrize("own", [False, True])
    def test_a_size_without_a_student_layer_aligns_nothing(
        self, own: bool, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        """The last block is shared and alone in the last step: what is left is its head at most."""
        teacher = tiny_teacher("llama", True)
        student, design = shared_end(teacher, own)
        learning = {name: torch.nn.Parameter(t) for name, t in student.tensors.items()}
        found = Distiller(teacher, student.with_tensors(learning), design, Objective(), ROW)(
            rows, 1
        )
        assert found["alignment"] == 0
        assert found["loss"].requires_grad is own
        assert (found["kl"].item() == pytest.approx(0, abs=1e-6)) is not own
        few = replace(SETTINGS, tokens=4 * 4 * ROW, interpolated=1.0)
        trained = distill(teacher, student, design, rows, few, 0, tmp_path)
        assert [told(line, "alignment") for line in metrics(tmp_path)] == [0] * 4
        assert same(trained, student) is not own

    def test_every_parameter_is_in_one_unit(
        self, case: tuple[Student, FamilyDesign], teacher: Any
    ) -> None:
        """FSDP needs that; what is in no unit is at the ends, and nothing is left out."""
        student, design = case
        own = {name: torch.nn.Parameter(t.clone()) for name, t in student.tensors.items()}
        distiller = Distiller(teacher, student.with_tensors(own), design, Objective(), ROW)
        parts = [set(unit.parameters()) for unit in [*distiller.units, distiller.ends]]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert set.union(*parts) == {*teacher.parameters(), *own.values()}


class TestSchedule:
    def test_an_epoch_shows_every_row_once(self) -> None:
        schedule = Schedule(replace(SETTINGS, batch_rows=3, micro_rows=1), 9, 5, seed=0)
        shown = torch.cat([schedule.rows(step) for step in range(6)])
        assert sorted(shown[:9].tolist()) == list(range(9))
        assert sorted(shown[9:].tolist()) == list(range(9))
        assert shown[:9].tolist() != shown[9:].tolist()

    def test_sizes_between_have_their_share(self) -> None:
        schedule = Schedule(replace(SETTINGS, interpolated=0.25), 9, 5, seed=0)
        sizes = [schedule.size(step) for step in range(2000)]
        assert set(sizes) == {0, 1, 2, 3}
        assert sum(size > 0 for size in sizes) / 2000 == pytest.approx(0.25, abs=0.04)

    def test_the_rate_rises_and_falls(self) -> None:
        settings = EndToEnd(learning_rate=1.0, warmup=0.1, last_rate=0.2)
        rates = [settings.rate(progress) for progress in (0.05, 0.1, 0.55, 1.0)]
        assert rates == pytest.approx([0.5, 1.0, 0.6, 0.2])

    @pytest.mark.parametrize(
        ("capabilities", "found"),
        [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
    )
    def test_auto_is_bf16_where_the_cpu_has_instructions_for_it(
        self, capabilities: dict[str, bool], found: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        assert EndToEnd().on(torch.device("cpu")).precision == found
        for stated in ("fp32", "bf16"):
            assert EndToEnd(precision=stated).on(torch.device("cpu")).precision == stated

    @pytest.mark.parametrize(
        "bad", [{"micro_rows": 3}, {"precision": "int8"}, {"interpolated": 1.5}, {"tokens": -1}]
    )
    def test_refuses_what_has_no_meaning(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            EndToEnd(**bad)


class TestRun:
    def test_lowers_the_loss(
        self,
        case: tuple[Student, FamilyDesign],
        teacher: Any,
        rows: torch.Tensor,
        tmp_path: Path,
    ) -> None:
        student, design = case
        trained = distill(teacher, student, design, rows, SETTINGS, 0, tmp_path)
        trained.check(teacher)

        def loss(student: Student) -> float:
            with torch.no_grad():
                distiller = Distiller(teacher, student, design, Objective(), ROW)
                return float(distiller(rows, 0)["loss"])

        assert loss(trained) < 0.9 * loss(student)
        lines = metrics(tmp_path)
        assert [line["step"] for line in lines] == list(range(20))
        assert all(math.isfinite(told(line, "kl")) for line in lines)

    def test_smaller_micro_batches_make_the_same_step(
        self,
        case: tuple[Student, FamilyDesign],
        teacher: Any,
        rows: torch.Tensor,
        tmp_path: Path,
    ) -> None:
        student, design = case
        one_step = replace(SETTINGS, tokens=4 * ROW)
        whole = distill(teacher, student, design, rows, one_step, 0, tmp_path / "whole")
        split = replace(one_step, micro_rows=2)
        parts = distill(teacher, student, design, rows, split, 0, tmp_path / "parts")
        for name, tensor in whole.tensors.items():
            torch.testing.assert_close(parts.tensors[name], tensor, atol=1e-3, rtol=0)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"compiled": True}, marks=pytest.mark.slow),
            {"precision": "bf16"},
            {"activation_checkpointing": True},
        ],
    )
    def test_faster_steps_learn_the_same(
        self, change: dict[str, Any], teacher: Any, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        student, design = start(teacher, StudentKind.LOWRANK)
        few = replace(SETTINGS, tokens=4 * 4 * ROW)
        plain = distill(teacher, student, design, rows, few, 0, tmp_path / "plain")
        changed = replace(few, **change)
        faster = distill(teacher, student, design, rows, changed, 0, tmp_path / "faster")
        moved = {n: plain.tensors[n] - t for n, t in student.tensors.items()}
        also = {n: faster.tensors[n] - t for n, t in student.tensors.items()}
        one, other = (torch.cat([t.flatten() for t in ts.values()]) for ts in (moved, also))
        assert functional.cosine_similarity(one, other, dim=0) > 0.95

    def test_accelerates_own_accumulation_divides_no_gradient(
        self, teacher: Any, rows: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`accelerate launch` sets it from a configuration that the user made for another run."""
        student, design = start(teacher, StudentKind.LOWRANK)
        one_step = replace(SETTINGS, tokens=4 * ROW)
        norms = []
        for steps in ("1", "4"):
            monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
            distill(teacher, student, design, rows, one_step, 0, tmp_path / steps)
            norms += [told(line, "gradient_norm") for line in metrics(tmp_path / steps)]
        assert norms[0] == norms[1] > 0
