"""End-to-end distillation: its objective, its steps, and that a stopped run goes on exactly."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from boomerang_core.assemble import assemble
from boomerang_core.distill.endtoend import METRICS, Distiller, distill
from boomerang_core.distill.objective import HeadInput, HeadTerms, Objective, distance
from boomerang_core.distill.schedule import EndToEnd, Schedule
from boomerang_core.errors import SettingsError, TrainingError
from boomerang_core.route import FamilyDesign, StudentKind, build_route
from boomerang_core.student import Student, initial_student
from tests.core.conftest import BLOCKS, LADDER, RANK, VOCABULARY, tiny_teacher

ROW = 12
SETTINGS = EndToEnd(tokens=20 * 4 * ROW, batch_rows=4, micro_rows=4, learning_rate=5e-3)


@pytest.fixture(params=["full", "lowrank"])
def kind(request: pytest.FixtureRequest) -> StudentKind:
    return StudentKind(request.param)


@pytest.fixture
def teacher() -> Any:
    return tiny_teacher("llama", True).requires_grad_(False)


def tiny_rows() -> torch.Tensor:
    return torch.randint(VOCABULARY, (10, ROW), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def rows() -> torch.Tensor:
    return tiny_rows()


def start(teacher: Any, kind: StudentKind) -> tuple[Student, FamilyDesign]:
    torch.manual_seed(1)
    return initial_student(teacher, BLOCKS, kind, RANK, False), FamilyDesign(BLOCKS, LADDER, kind)


def same(one: Student, other: Student) -> bool:
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


class TestObjective:
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_head_terms_equal_a_plain_computation(
        self, temperature: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("boomerang_core.distill.objective.HEAD_TOKENS", 3)
        torch.manual_seed(0)
        head, model, teacher = (torch.randn(*shape).double() for shape in ((9, 5), (8, 5), (8, 5)))
        next_T = torch.randint(9, (8,))
        found = HeadTerms(temperature)(
            HeadInput(lambda x: x.double() @ head.T, model),
            HeadInput(lambda x: x.double() @ head.T, teacher),
            next_T,
        )
        probs = ((teacher @ head.T) / temperature).softmax(-1)
        kl = (probs * (probs / ((model @ head.T) / temperature).softmax(-1)).log()).sum(-1).mean()
        cross_entropy = functional.cross_entropy(model @ head.T, next_T)
        assert found[0].item() == pytest.approx(cross_entropy.item(), abs=1e-5)
        assert found[1].item() == pytest.approx(kl.item(), abs=1e-5)

    def test_distances_equal_a_plain_computation(self) -> None:
        one, two = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        cosines = (one * two).sum(-1) / (one.norm(dim=-1) * two.norm(dim=-1))
        errors = ((one - two) ** 2).sum(-1) / (two**2).sum(-1)
        assert distance(one, two, "cosine").item() == pytest.approx(1 - cosines.mean().item())
        assert distance(one, two, "mse").item() == pytest.approx(errors.mean().item())

    def test_the_total_is_weighted(self) -> None:
        terms = {"cross_entropy": 2.0, "kl": 3.0, "alignment": 5.0}
        tensors = {name: torch.tensor(value) for name, value in terms.items()}
        total = Objective(0.5, 0.25, 2.0, "mse", temperature=2.0).total(tensors)
        assert total.item() == pytest.approx(0.5 * 2 + 0.25 * 4 * 3 + 2 * 5)

    @pytest.mark.parametrize(
        "bad", [{"kl": -1.0}, {"kl": 0.0, "alignment": 0.0}, {"aligned_by": "l1"}]
    )
    def test_refuses_what_has_no_meaning(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            Objective(**bad)


class TestDistiller:
    def test_a_size_is_the_assembled_model(
        self, kind: StudentKind, teacher: Any, rows: torch.Tensor
    ) -> None:
        student, design = start(teacher, kind)
        distiller = Distiller(teacher, student, design, Objective(), ROW)
        for size in range(design.ladder.num_sizes - 1):
            logits = assemble(teacher, student, build_route(design, size))(rows).logits[:, :-1]
            loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            found = distiller(rows, size)["cross_entropy"]
            assert found.item() == pytest.approx(loss.item(), abs=1e-5)

    def test_gradients_reach_the_students_tensors_alone(
        self, kind: StudentKind, teacher: Any, rows: torch.Tensor
    ) -> None:
        student, design = start(teacher, kind)
        own = {name: torch.nn.Parameter(t.clone()) for name, t in student.tensors.items()}
        distiller = Distiller(teacher, student.with_tensors(own), design, Objective(), ROW)
        distiller(rows, 0)["loss"].backward()
        assert all(parameter.grad is not None for parameter in own.values())
        assert all(parameter.grad is None for parameter in teacher.parameters())


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
        "bad", [{"micro_rows": 3}, {"precision": "int8"}, {"interpolated": 1.5}, {"tokens": -1}]
    )
    def test_refuses_what_has_no_meaning(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            EndToEnd(**bad)


class TestRun:
    def test_lowers_the_loss(
        self, kind: StudentKind, teacher: Any, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        student, design = start(teacher, kind)
        trained = distill(teacher, student, design, rows, SETTINGS, 0, tmp_path)
        trained.check(teacher)

        def loss(student: Student) -> float:
            with torch.no_grad():
                distiller = Distiller(teacher, student, design, Objective(), ROW)
                return float(distiller(rows, 0)["loss"])

        assert loss(trained) < 0.9 * loss(student)
        lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(20))
        assert all(math.isfinite(line["kl"]) for line in lines)

    def test_a_stopped_run_goes_on_to_the_same_tensors(
        self, kind: StudentKind, teacher: Any, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        student, design = start(teacher, kind)
        whole = distill(teacher, student, design, rows, SETTINGS, 0, tmp_path / "whole")

        class StoppedError(Exception):
            """Stands for a kill."""

        def stop(self: Any, step: int) -> Any:
            if step == 13:
                raise StoppedError
            return plain(self, step)

        plain = Schedule.rows
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Schedule, "rows", stop)
            with pytest.raises(StoppedError):
                distill(teacher, student, design, rows, SETTINGS, 0, tmp_path / "stopped")
        with (tmp_path / "stopped" / METRICS).open("a") as file:
            file.write('{"step": 1')  # what a kill leaves of a line
        resumed = distill(teacher, student, design, rows, SETTINGS, 0, tmp_path / "stopped")
        lines = (tmp_path / "stopped" / METRICS).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(20))
        assert same(whole, resumed)
        assert not same(whole, student)

    def test_smaller_micro_batches_make_the_same_step(
        self, kind: StudentKind, teacher: Any, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        student, design = start(teacher, kind)
        one_step = replace(SETTINGS, tokens=4 * ROW)
        whole = distill(teacher, student, design, rows, one_step, 0, tmp_path / "whole")
        split = replace(one_step, micro_rows=2)
        parts = distill(teacher, student, design, rows, split, 0, tmp_path / "parts")
        for name, tensor in whole.tensors.items():
            torch.testing.assert_close(parts.tensors[name], tensor, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("change", [{"compiled": True}, {"precision": "bf16"}])
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

    def test_a_loss_that_is_no_number_is_one_clear_error(
        self, teacher: Any, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        student, design = start(teacher, StudentKind.FULL)
        name = next(iter(student.tensors))
        broken = student.with_tensors({name: torch.full_like(student.tensors[name], math.nan)})
        with pytest.raises(TrainingError, match="step 0 is not a number"):
            distill(teacher, broken, design, rows, SETTINGS, 0, tmp_path)
        assert not (tmp_path / "state.pt").exists()

    def test_two_processes_learn_what_one_does(
        self, teacher: Any, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        student, design = start(teacher, StudentKind.LOWRANK)
        distill(teacher, student, design, rows, SETTINGS, 0, tmp_path / "one")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node=2", "-m", "tests.core.two_processes", str(tmp_path / "two")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        one, two = (
            [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
            for name in ("one", "two")
        )
        for alone, shared in zip(one, two, strict=True):
            # the mean of two halves is rounded in another order than the mean of the whole
            assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
