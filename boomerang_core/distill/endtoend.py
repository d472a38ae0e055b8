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
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    broadcast,
)
from torch import nn

from boomerang_core.distill.distiller import TERMS, Distiller
from boomerang_core.distill.metrics import METRICS, Metrics, Progress, require_tensorboard
from boomerang_core.distill.schedule import PRECISIONS, EndToEnd, Schedule
from boomerang_core.distill.sharding import fsdp_settings, make_whole, shard, whole
from boomerang_core.distill.state import STATE, RunState
from boomerang_core.distill.stream import batches
from boomerang_core.errors import SettingsError, TrainingError, WriteError
from boomerang_core.route import FamilyDesign
from boomerang_core.student import Student

STATES, RECORDS = 40, 200
"""How often a run keeps its state, at most, and its metrics, over all its steps."""

FREE_SECONDS, SHARE = 1.0, 0.05
"""The time, and the share of a run's time, that keeping states may have taken when one is due: the
state of a large student is tens of gigabytes."""


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

    ``work`` receives the metrics and the state from which a stopped run goes on; ``tensorboard``
    the metrics once more as event files.  Under ``accelerate launch`` or ``torchrun`` each process
    takes its share of every step's rows; its ``teacher`` is on its own device, and the first
    process alone writes, where all can read.  Configured for FSDP 2, they also share out the
    parameters of teacher and student; the teacher is whole again at the end.
    Raises TrainingError when the loss is no longer a number, WriteError for a full disk,
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
        "rows": list(rows_RL.shape),
        "settings": asdict(settings),
        "seed": seed,
    }


class _Processes:
    """The processes that share a run, as `accelerate` is configured."""

    def __init__(self, device: torch.device, settings: EndToEnd) -> None:
        self.device, self.precision = device, PRECISIONS[settings.precision]
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",  # the recipe says what is computed in which precision
            # as does the number of rows at a time; what a user's configuration says would divide
            # the gradients once more
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.count = self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.fsdp = fsdp_settings(self.count)
        self._share = settings.share(self.count)

    def spread(
        self, distiller: Distiller, own: dict[str, nn.Parameter]
    ) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """The module that makes a step on every process, and the parameters that it trains.

        Empties ``own`` where it shards them: they must not be held whole as well.
        """
        if self.fsdp is not None:
            return distiller, shard(distiller, distiller.units, own, self.fsdp, self.precision)
        return (self.accelerator.prepare(distiller) if self.count > 1 else distiller), own

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's share of a step's rows."""
        return rows[self._share * self.accelerator.process_index :][: self._share]

    def first_says(self, answer: bool) -> bool:
        """The first process's answer, on every one."""
        return bool(broadcast(torch.tensor(int(answer), device=self.device)))

    def autocast(self) -> torch.autocast:
        """Matrix products in the run's precision.

        Not accelerate's own: its precision is fixed for the life of a process.
        """
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=enabled)

    def gradients_stay(self, model: nn.Module, last: bool) -> Any:
        """A context in which a backward pass only adds to this process's own gradients.

        Not with FSDP, where they would be whole on every process.
        """
        if last or self.fsdp is not None:
            return nullcontext()
        return self.accelerator.no_sync(model)


class Trainer:
    """A run of ``distill``: its model and optimiser over all processes, and the loop over steps."""

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
        self._processes = _Processes(teacher.device, settings)
        own = {
            name: nn.Parameter(t.detach().to(teacher.device, torch.float32, copy=True))
            for name, t in student.tensors.items()
        }
        trained, objective = student.with_tensors(own), settings.objective
        length, sizes = rows_RL.shape[1], design.ladder.num_sizes
        distiller = Distiller(teacher, trained, design, objective, length, settings.compiled)
        del trained
        self._model, self._parameters = self._processes.spread(distiller, own)
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), betas=(0.9, 0.95), weight_decay=settings.weight_decay
        )
        self._schedule = Schedule(settings, len(rows_RL), sizes, seed)
        self._tokens = settings.batch_rows * length
        self._steps = math.ceil(settings.tokens / self._tokens)
        origin = _origin(student, design, rows_RL, settings, seed)
        self._state = RunState(
            work / STATE, origin, self._parameters, self._optimiser, self._processes.main
        )
        self._metrics = work / METRICS

    def finish(self) -> dict[str, torch.Tensor]:
        """The student's tensors, whole and on the CPU; the teacher is whole again too."""
        device = self._processes.device
        trained = {name: whole(p.detach()).cpu() for name, p in self._parameters.items()}
        make_whole(self._teacher, device)
        return trained

    def train(self, tensorboard: Path | None) -> None:
        """Train from the stored step to the last one."""
        start = self._state.restore()
        if start == self._steps:
            return
        self._begun = time.perf_counter()
        seen, main = start * self._tokens, self._processes.main
        metrics = Metrics(self._metrics, tensorboard, start, seen) if main else None
        progress = Progress(seen, self._steps * self._tokens, shown=main)
        with closing(progress), closing(metrics) if metrics else nullcontext():
            for step in range(start, self._steps):
                values = self.step(step)
                progress.advance(self._tokens, values)
                try:
                    self._keep(step, values, metrics)
                except WriteError as error:
                    raise WriteError(f"{error}; {self._state}") from error

    def _keep(self, step: int, values: dict[str, float], metrics: Metrics | None) -> None:
        """Record the step, and store the state after it, where that is due."""
        last = step + 1 == self._steps
        if metrics is not None and (last or step % max(1, self._steps // RECORDS) == 0):
            line = {"size": self._schedule.size(step), **values}
            metrics.record(step, (step + 1) * self._tokens, line)
        due = (step + 1) % max(1, self._steps // STATES) == 0
        if last or (due and self._processes.first_says(self._affordable())):
            self._state.store(step + 1)

    def _affordable(self) -> bool:
        """Whether keeping states has taken no more of the run's time than it may."""
        elapsed = time.perf_counter() - self._begun
        return self._state.seconds <= FREE_SECONDS + SHARE * elapsed

    def step(self, step: int) -> dict[str, float]:
        """One optimiser step; the terms of all its rows, and what the step was made with."""
        rate = self._settings.rate((step + 1) / self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        terms = self._gradients(step)
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip)
        found = {**terms, "gradient_norm": float(whole(norm)), "learning_rate": rate}
        if not all(math.isfinite(value) for value in found.values()):
            raise TrainingError(
                f"the loss or the gradient of step {step} is not a number: lower the learning "
                f"rate of {self._settings.learning_rate}; {self._state}"
            )
        self._optimiser.step()
        self._optimiser.zero_grad()
        return found

    def _gradients(self, step: int) -> dict[str, float]:
        """Gradients of the step's mean loss, ``micro_rows`` at a time; the terms' means."""
        mine = self._processes.rows(self._schedule.rows(step))
        size, device = self._schedule.size(step), self._processes.device
        sums = torch.zeros(len(TERMS), device=device)
        for part in batches(len(mine), self._settings.micro_rows):
            ids_BL = self._rows_RL[mine[part]].to(device)
            parts = len(mine) / len(ids_BL)
            with self._processes.gradients_stay(self._model, last=part.stop == len(mine)):
                with self._processes.autocast():
                    terms = self._model(ids_BL, size)
                self._processes.accelerator.backward(terms["loss"] / parts)
            sums += torch.stack([terms[name].detach() for name in TERMS]) / parts
        means = self._processes.accelerator.reduce(sums, "mean")
        return dict(zip(TERMS, means.tolist(), strict=True))
