"""A step whose loss or gradient is no number is skipped; a run that is told to stop does so."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.distill import distiller, endtoend
from boomerang_core.distill.state import STATE, RunState
from boomerang_core.distill.stopping import stop_signals
from boomerang_core.errors import StoppedError, TrainingError
from tests.core.test_stopped_runs import run
from tests.core.tiny_run import ROW, before_step, metrics, same


class Spoilt:
    """States that are nowhere near in some steps, by whatever is no number."""

    def __init__(self, patch: pytest.MonkeyPatch, *steps: int) -> None:
        self._plain = distiller.distance
        self._steps, self._step = steps, -1
        patch.setattr(distiller, "distance", self.distance)
        plain = endtoend.Trainer.step

        def step(trainer: Any, at: int, *more: Any) -> dict[str, float]:
            self._step = at
            return plain(trainer, at, *more)

        patch.setattr(endtoend.Trainer, "step", step)

    def distance(self, *pair: Any) -> torch.Tensor:
        found = self._plain(*pair)
        return found * math.nan if self._step in self._steps else found


def test_one_is_skipped_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[bool] = []
    plain = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda *args: (taken.append(True), plain(*args))[1]
    )
    Spoilt(monkeypatch, 7, 11, 12, 13, 14)
    student = run(tmp_path)
    assert len(taken) == 15
    assert all(torch.isfinite(tensor).all() for tensor in student.tensors.values())
    assert [line["step"] for line in metrics(tmp_path) if line["skipped"]] == [7, 11, 12, 13, 14]
    assert "step 7 skipped: its loss or gradient is not a number" in capsys.readouterr().err


def test_a_run_goes_on_from_before_skipped_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that end it must be met again, not left out."""
    kept: list[int] = []
    plain = RunState.store
    monkeypatch.setattr(
        RunState, "store", lambda state, step: (kept.append(step), plain(state, step))[1]
    )
    Spoilt(monkeypatch, 7, 8)
    run(tmp_path)
    assert kept == [step for step in range(1, 21) if step not in (8, 9)]


def test_a_short_run_of_which_no_step_counts_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spoilt(monkeypatch, 0, 1, 2)
    with pytest.raises(TrainingError, match="of steps 0 to 2 is not a number"):
        run(tmp_path, tokens=3 * 4 * ROW)
    assert not (tmp_path / STATE).exists()


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Whatever these tests were started by: in the background of a shell, Ctrl-C is ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_keeps_its_state_and_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(endtoend, "STATES", 1)  # none is due before the end
    before = signal.getsignal(number)
    with (
        before_step(13, tell(number)),
        pytest.raises(StoppedError, match="goes on; the state before step 14 is whole") as caught,
    ):
        run(tmp_path / "stopped")
    assert caught.value.may_pass  # of which a command makes exit status 75
    assert signal.getsignal(number) is before
    assert [line["step"] for line in metrics(tmp_path / "stopped")] == list(range(14))
    assert same(run(tmp_path / "stopped"), whole)
    assert [line["step"] for line in metrics(tmp_path / "stopped")] == list(range(20))


def test_told_twice_it_stops_at_once() -> None:
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.asked


def test_in_another_thread_signals_stay_as_they_are() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def look() -> None:
        with stop_signals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [before]


def test_a_record_is_the_mean_of_the_steps_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps on the student and on sizes between apart."""
    run(tmp_path / "every")
    monkeypatch.setattr(endtoend, "RECORDS", 4)
    monkeypatch.setattr(endtoend, "STATES", 1)  # with each there is a record too
    run(tmp_path / "fifth")
    every, fifth = metrics(tmp_path / "every"), metrics(tmp_path / "fifth")
    assert [line["step"] for line in fifth] == [0, 5, 10, 15, 19]
    first = 0
    for record in fifth:
        steps = every[first : int(record["step"]) + 1]
        first = int(record["step"]) + 1
        for kind in ("student", "interpolated"):
            losses = [line[f"{kind}/loss"] for line in steps if f"{kind}/loss" in line]
            assert record.get(f"{kind}/steps", 0) == len(losses)
            if losses:
                mean = math.fsum(losses) / len(losses)
                assert record[f"{kind}/loss"] == pytest.approx(mean, rel=1e-6)
    assert {key for line in fifth for key in line} >= {"student/kl", "interpolated/kl", "skipped"}


def test_a_stop_loses_nothing_of_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endtoend, "RECORDS", 2)
    monkeypatch.setattr(endtoend, "STATES", 4)
    Spoilt(monkeypatch, 11)
    with before_step(13, tell(signal.SIGTERM)), pytest.raises(StoppedError):
        run(tmp_path)
    run(tmp_path)
    lines = metrics(tmp_path)
    counted = ("student/steps", "interpolated/steps", "skipped")
    assert sum(line.get(name, 0) for line in lines for name in counted) == 20
