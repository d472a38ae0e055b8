"""A run that was stopped, by anything, goes on to the tensors of one that was not."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.distill import distiller
from boomerang_core.distill.endtoend import distill
from boomerang_core.distill.metrics import METRICS, Metrics
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.state import STATE, RunState
from boomerang_core.errors import CheckpointError, SettingsError, TrainingError, WriteError
from boomerang_core.route import StudentKind
from boomerang_core.student import Student
from tests.core.conftest import tiny_teacher
from tests.core.tiny_run import SETTINGS, before_step, metrics, same, start, tiny_rows

LOWRANK = StudentKind.LOWRANK


def run(work: Path, kind: StudentKind = LOWRANK, **changes: Any) -> Student:
    teacher = tiny_teacher("llama", True)
    student, design = start(teacher, kind)
    settings = replace(SETTINGS, **changes)
    return distill(teacher, student, design, tiny_rows(), settings, 0, work)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[StudentKind, Student]:
    """Students of runs that nothing stopped."""
    return {kind: run(tmp_path_factory.mktemp(kind), kind) for kind in StudentKind}


class StoppedError(Exception):
    """Stands for a stop of the interpreter's own, as by Ctrl-C."""


def stop() -> None:
    raise StoppedError


def steps(work: Path) -> list[float]:
    return [line["step"] for line in metrics(work)]


@pytest.mark.parametrize("kind", StudentKind)
def test_a_stopped_run_goes_on(
    kind: StudentKind, whole: dict[StudentKind, Student], tmp_path: Path
) -> None:
    with before_step(13, stop), pytest.raises(StoppedError):
        run(tmp_path, kind)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 13, "tok')  # what a kill leaves of a line
    assert same(run(tmp_path, kind), whole[kind])
    assert steps(tmp_path) == list(range(20))
    assert same(run(tmp_path, kind), whole[kind])  # a finished run trains no more
    assert steps(tmp_path) == list(range(20))


@pytest.mark.parametrize("where", ["step", "write"])
def test_a_killed_run_goes_on(
    where: str, whole: dict[StudentKind, Student], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.core.killed_run", str(tmp_path), LOWRANK, where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert same(run(tmp_path), whole[LOWRANK])
    assert steps(tmp_path) == list(range(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS, STATE]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """The kernel refuses to write more bytes than that into a file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("seconds", "times"), [(0.0, 20), (1000.0, 2)])
def test_a_state_that_takes_long_is_kept_less_often(
    seconds: float, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time it is due, and at the end."""
    kept: list[int] = []

    def store(state: RunState, step: int) -> None:
        kept.append(step)
        state.seconds += seconds

    monkeypatch.setattr(RunState, "store", store)
    run(tmp_path)
    assert len(kept) == times
    assert (kept[0], kept[-1]) == (1, 20)


def test_a_state_that_cannot_be_written_is_one_clear_error(
    whole: dict[StudentKind, Student], tmp_path: Path
) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    message = rf"cannot write .*{STATE}: .*; the state before step 13 is whole in "
    with file_size_limit(10**9), before_step(13, no_room), pytest.raises(WriteError, match=message):
        run(tmp_path)
    assert same(run(tmp_path), whole[LOWRANK])


def test_metrics_that_cannot_be_written_are_one_clear_error(
    whole: dict[StudentKind, Student], tmp_path: Path
) -> None:
    def full() -> None:
        (tmp_path / METRICS).rename(tmp_path / "kept")
        (tmp_path / METRICS).symlink_to("/dev/full")

    message = rf"{METRICS}: No space left on device; the state before step 13 is whole in "
    with before_step(13, full), pytest.raises(WriteError, match=message):
        run(tmp_path)
    (tmp_path / "kept").replace(tmp_path / METRICS)
    assert same(run(tmp_path), whole[LOWRANK])
    assert steps(tmp_path) == list(range(20))


def test_closing_tensorboard_on_a_full_disk_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(_: SummaryWriter) -> None:
        raise OSError("no space left")

    found = Metrics(tmp_path / METRICS, tmp_path / "board", 0, 0)
    monkeypatch.setattr(SummaryWriter, "close", full)
    with pytest.raises(WriteError, match="what record said"), closing(found):
        raise WriteError("what record said")


def test_a_loss_that_is_no_number_is_one_clear_error(
    whole: dict[StudentKind, Student], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def spoil() -> None:
            nan = torch.tensor(math.nan)
            patch.setattr(distiller, "distance", lambda *_: nan)

        message = "steps 13 to 17 is not a number: .*; the state before step 13 is whole in "
        with before_step(13, spoil), pytest.raises(TrainingError, match=message):
            run(tmp_path)
    assert steps(tmp_path) == list(range(17))  # four were skipped
    assert same(run(tmp_path), whole[LOWRANK])


def test_a_gradient_that_is_no_number_is_one_clear_error(tmp_path: Path) -> None:
    """The loss is finite and its gradient is not: the step must not be taken."""

    def root(output: torch.Tensor, target: torch.Tensor, by: str) -> torch.Tensor:
        return (output - output).sum().sqrt()  # 0, of infinite slope

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller, "distance", root)
        with pytest.raises(
            TrainingError, match=r"steps 0 to 4 is not a number: .*no state was kept"
        ):
            run(tmp_path)
    assert not (tmp_path / STATE).exists()


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [half, lambda path: path.write_bytes(b"not tensors")])
def test_a_damaged_state_is_one_clear_error(damage: Callable[[Path], None], tmp_path: Path) -> None:
    with before_step(3, stop), pytest.raises(StoppedError):
        run(tmp_path)
    damage(tmp_path / STATE)
    with pytest.raises(CheckpointError, match=rf"cannot go on from .*{STATE}: .*delete it"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"learning_rate": 1e-4}, "settings"), ({"kind": StudentKind.FULL}, "student")],
)
def test_a_state_of_another_run_is_one_clear_error(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with before_step(3, stop), pytest.raises(StoppedError):
        run(tmp_path)
    with pytest.raises(CheckpointError, match=f"another {named}: delete it, or give"):
        run(tmp_path, **change)
    assert steps(tmp_path) == [0, 1, 2]


def test_the_speed_is_that_of_the_steps_since_the_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first after a resume, which knows nothing of the steps before it."""
    clock = iter(range(0, 10_000, 2))  # two seconds between any two looks at it
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with before_step(13, stop), pytest.raises(StoppedError):
        run(tmp_path)
    run(tmp_path)
    a_step = SETTINGS.tokens // 20
    assert [line["tokens_per_second"] for line in metrics(tmp_path)] == [a_step // 2] * 20


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    tags = board.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


class TestTensorBoard:
    def run(self, folder: Path, settings: EndToEnd = SETTINGS) -> None:
        teacher = tiny_teacher("llama", True)
        student, design = start(teacher, LOWRANK)
        board = folder / "board"
        distill(teacher, student, design, tiny_rows(), settings, 0, folder, tensorboard=board)

    def test_has_the_numbers_of_the_metrics_each_step_once(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, tokens=SETTINGS.tokens * 5)  # a state every second step
        with before_step(13, stop), pytest.raises(StoppedError):
            self.run(tmp_path, settings)
        assert len(steps(tmp_path)) == 13
        self.run(tmp_path, settings)
        found, lines = events(tmp_path / "board"), metrics(tmp_path)
        assert found.keys() == set().union(*lines) - {"step"}
        for tag, scalars in found.items():
            having = [line for line in lines if tag in line]
            expected = [(line["step"], pytest.approx(line[tag], rel=1e-6)) for line in having]
            assert scalars == expected

    def test_a_missing_package_is_one_clear_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(SettingsError, match="pip install tensorboard"):
            self.run(tmp_path)
        assert not list(tmp_path.iterdir())
