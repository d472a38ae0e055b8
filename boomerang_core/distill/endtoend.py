"""Distil a whole student end to end, on its own and inside the interpolated models.

Every step trains one size of the family: the student itself, or, in a stated share of the steps,
a size drawn at random, whose teacher layers are frozen and pass the gradient on.  All sizes are
routes over the same tensors, so a step on one moves them all.

A step is a function of the seed and its number (its rows, its size, its rate), so a run that was
stopped goes on to the same tensors.

Shapes: R rows, B rows of a step, L tokens a row.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.distill.distiller import Distiller
from boomerang_core.distill.metrics import (
    METRICS,
    Means,
    Metrics,
    Progress,
    require_tensorboard,
    tell_skipped,
)
from boomerang_core.distill.processes import Trainers, agreed, digest
from boomerang_core.distill.schedule import EndToEnd, Schedule
from boomerang_core.distill.sharding import make_whole, whole
from boomerang_core.distill.state import STATE, RunState
from boomerang_core.distill.stopping import Stop, stop_signals
from boomerang_core.errors import SettingsError, StoppedError, TrainingError, WriteError
from boomerang_core.layer_runner import batches
from boomerang_core.route import FamilyDesign
from boomerang_core.student import Student

STATES, RECORDS = 40, 200
"""How often a run keeps its state, at most, and its metrics, over all its steps."""

FREE_SECONDS, SHARE = 1.0, 0.05
"""The time, and the share of a run's time, that keeping states may have taken when one is due: the
state of a large student is tens of gigabytes."""

BAD_STEPS = 5
"""Steps on end whose loss or gradient is no number, with which a run ends; fewer are skipped,
unless it has no others."""


def distill(
    teacher: Any,
    student: Student,
    design: FamilyDesign,
    rows_RL: torch.Tensor,
    settings: EndToEnd,
    seed: int,
    work: Path,
    tensorboard: Path | None = None,
) -> Student:
    """Train the student end to end and return it, in float32 on the CPU.

    `work` receives the metrics and the state from which a stopped run goes on; `tensorboard`
    the metrics once more as event files.  Under `accelerate launch` or `torchrun` each process
    takes its share of every step's rows; its `teacher` is on its own device, and the first
    process alone writes, where all can read.  Configured for FSDP 2, they also share out the
    parameters of teacher and student; the teacher is whole again at the end.
    A step whose loss or gradient is no number is skipped.  SIGTERM and Ctrl-C end the run after
    the step in which they come, with its state kept.
    Raises TrainingError for `BAD_STEPS` such steps on end and for processes that would train
    different things, StoppedError for a run that was told to stop, WriteError for a full disk,
    CheckpointError for a stored state that is damaged or of another run, SettingsError for a
    teacher that is not in float32 and for rows that the processes cannot share evenly.
    """
    if tensorboard is not None:
        require_tensorboard()
    trainer = Trainer(teacher, student, design, rows_RL, settings, seed, work)
    trainer.train(tensorboard)
    return student.with_tensors(trainer.finish())


def _origin(
    student: Student, design: FamilyDesign, rows_RL: torch.Tensor, settings: EndToEnd, seed: int
) -> dict[str, Any]:
    """What decides a run, as JSON: a state is taken up only where all of it is equal."""
    return {
        "student": {name: list(tensor.shape) for name, tensor in student.tensors.items()},
        "blocks": design.block_map.to_json(),
        "ladder": design.ladder.to_json(),
        "rows": digest({"": rows_RL}),
        "settings": asdict(settings),
        "seed": seed,
    }


def _require_agreement(origin: dict[str, Any], student: Student) -> None:
    """Raise TrainingError where another process has other rows, or begins with another student."""
    agreed(lambda: {**origin, "start": digest(student.tensors)})


def _parameters(student: Student, device: torch.device) -> dict[str, nn.Parameter]:
    """Copies of the student's tensors to train, in float32."""
    return {
        name: nn.Parameter(tensor.detach().to(device, torch.float32, copy=True))
        for name, tensor in student.tensors.items()
    }


class Trainer:
    """A run of `distill`: its model and optimiser over all processes, and the loop over steps."""

    def __init__(
        self,
        teacher: Any,
        student: Student,
        design: FamilyDesign,
        rows_RL: torch.Tensor,
        settings: EndToEnd,
        seed: int,
        work: Path,
    ) -> None:
        if teacher.dtype is not torch.float32:
            raise SettingsError(
                f"the teacher to distil from must be in float32, not {teacher.dtype}"
            )
        settings = settings.on(teacher.device)
        self._teacher, self._rows_RL, self._settings = teacher, rows_RL, settings
        self._processes = Trainers(teacher.device, settings)
        origin = _origin(student, design, rows_RL, settings, seed)
        if self._processes.count > 1:  # before they give each other tensors
            _require_agreement(origin, student)
        own = _parameters(student, teacher.device)
        length, sizes = rows_RL.shape[1], design.ladder.num_sizes
        distiller = Distiller(
            teacher,
            student.with_tensors(own),
            design,
            settings.objective,
            length,
            settings.compiled,
        )
        self._terms = distiller.terms
        self._learns = [distiller.learns(size) for size in range(sizes)]
        self._model, self._parameters = self._processes.spread(distiller, own)
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), betas=(0.9, 0.95), weight_decay=settings.weight_decay
        )
        self._schedule = Schedule(settings, len(rows_RL), sizes, seed)
        self._tokens = settings.batch_rows * length
        self._steps = math.ceil(settings.tokens / self._tokens)
        self._state = RunState(
            work / STATE, origin, self._parameters, self._optimiser, self._processes.main
        )
        self._metrics, self._means = work / METRICS, Means()
        self._bad = 0  # steps on end, up to now, whose loss or gradient was no number

    def finish(self) -> dict[str, torch.Tensor]:
        """The student's tensors, whole and on the CPU; the teacher is whole again too."""
        device = self._processes.device
        trained = {name: whole(p.detach()).cpu() for name, p in self._parameters.items()}
        make_whole(self._teacher, device)
        return trained

    def train(self, tensorboard: Path | None) -> None:
        """Train from the stored step to the last one."""
        start = agreed(lambda: {"step to go on with": self._state.restore()})["step to go on with"]
        if start == self._steps:
            return
        self._begun = time.perf_counter()
        seen, main = start * self._tokens, self._processes.main
        metrics = Metrics(self._metrics, tensorboard, start, seen) if main else None
        progress = Progress(seen, self._steps * self._tokens, shown=main)
        recorded = closing(metrics) if metrics else nullcontext()
        with closing(progress), recorded, stop_signals() as stop:
            for step in range(start, self._steps):
                values = self.step(step, stop)
                progress.advance(self._tokens, values)
                try:
                    self._keep(step, values, metrics)
                except WriteError as error:
                    raise WriteError(f"{error}; {self._state}") from error

    def _keep(self, step: int, values: dict[str, float], metrics: Metrics | None) -> None:
        """Record the step, and store the state after it, where that is due.

        Not after a step that was skipped: more may follow, and a run that they end must go on
        before them.
        """
        stopped = values.pop("stopped") > 0
        last = step + 1 == self._steps
        kind = "interpolated" if self._schedule.size(step) else "student"
        self._means.add(kind, values)
        due = (step + 1) % max(1, self._steps // STATES) == 0 and not self._bad
        kept = last or stopped or (due and self._processes.first_says(self._affordable()))
        # with a state, as a run that goes on knows nothing of the steps before
        if metrics is not None and (kept or step % max(1, self._steps // RECORDS) == 0):
            metrics.record(step, (step + 1) * self._tokens, self._means.take())
        if kept:
            self._state.store(step + 1)
        if stopped and not last:
            raise StoppedError(f"told to stop: the same command goes on; {self._state}")

    def _affordable(self) -> bool:
        """Whether keeping states has taken no more of the run's time than it may."""
        elapsed = time.perf_counter() - self._begun
        return self._state.seconds <= FREE_SECONDS + SHARE * elapsed

    def step(self, step: int, stop: Stop | None = None) -> dict[str, float]:
        """One optimiser step; the terms of all its rows, and what the step was made with.

        Whether it counts, and `stopped`, are the same on every process: they are found in what
        all have summed up.  Raises TrainingError.
        """
        rate = self._settings.rate((step + 1) / self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        terms = self._gradients(step, stop)
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip)
        found = {**terms, "gradient_norm": float(whole(norm)), "learning_rate": rate}
        if all(math.isfinite(value) for value in found.values()):
            self._bad = 0
            self._optimiser.step()
        else:
            self._bad += 1
            self._check_bad(step)
        self._optimiser.zero_grad()
        return found

    def _check_bad(self, step: int) -> None:
        """Say that a step is skipped.  Raises TrainingError where there were too many on end."""
        if self._bad < min(BAD_STEPS, self._steps):
            if self._processes.main:
                tell_skipped(step)
            return
        raise TrainingError(
            f"the loss or the gradient of steps {step + 1 - self._bad} to {step} is not a number: "
            f"lower the learning rate of {self._settings.learning_rate}; {self._state}"
        )

    def _gradients(self, step: int, stop: Stop | None) -> dict[str, float]:
        """Gradients of the step's mean loss, `micro_rows` at a time; the terms' means."""
        mine = self._processes.rows(self._schedule.rows(step))
        size, device = self._schedule.size(step), self._processes.device
        sums = torch.zeros(len(self._terms), device=device)
        learns = self._learns[size]
        for part in batches(len(mine), self._settings.micro_rows):
            ids_BL = self._rows_RL[mine[part]].to(device)
            parts = len(mine) / len(ids_BL)
            shared = learns and part.stop == len(mine)
            with self._processes.gradients_stay(self._model, not shared):
                with self._processes.autocast():
                    terms = self._model(ids_BL, size)
                if learns:
                    self._processes.accelerator.backward(terms["loss"] / parts)
            sums += torch.stack([terms[name].detach() for name in self._terms]) / parts
        asked = sums.new_tensor([float(stop is not None and stop.asked)])
        means = self._processes.means(torch.cat([sums, asked]))
        return dict(zip((*self._terms, "stopped"), means, strict=True))
