"""Distil a whole student end to end, on its own and inside the interpolated models.

Every step trains one size of the family: the student itself, or, in a stated share of the steps,
a size drawn at random, whose teacher layers are frozen and pass the gradient on.  All sizes are
routes over the same tensors, so a step on one moves them all.

A step is a function of the seed and its number (its rows, its size, its rate), so a run that was
stopped goes on to the same tensors.

Shapes: R rows, B rows of a step, L tokens a row, D hidden.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from tqdm import tqdm

from boomerang_core.assemble import assemble
from boomerang_core.distill.objective import HeadInput, HeadTerms, Objective, distance
from boomerang_core.distill.schedule import PRECISIONS, EndToEnd, Schedule
from boomerang_core.distill.stream import LayerRunner, batches
from boomerang_core.errors import SettingsError, TrainingError
from boomerang_core.evaluate.perplexity import lanes
from boomerang_core.provenance import write_atomically
from boomerang_core.route import FamilyDesign, Owner, Route, build_route
from boomerang_core.student import Student

Terms = dict[str, torch.Tensor]
METRICS = "metrics.jsonl"
STATES, RECORDS = 40, 200
"""How often a run keeps its state, and its metrics, over all its steps."""


class Distiller(nn.Module):
    """Teacher and student as one module: token rows and a size → the terms of the objective."""

    def __init__(
        self,
        teacher: Any,
        student: Student,
        design: FamilyDesign,
        objective: Objective,
        row_length: int,
        compiled: bool = False,
    ) -> None:
        """``student``'s trainable tensors are parameters in float32 on the teacher's device."""
        super().__init__()
        self.teacher = teacher
        self.student = assemble(teacher, student, build_route(design, 0))
        self.objective = objective
        self._terms = HeadTerms(objective.temperature, compiled)
        self._runner = LayerRunner(teacher, row_length, compiled)
        self._lanes = lanes(
            self._runner, LayerRunner(self.student, row_length, compiled), design.block_map
        )
        self._blocks = design.block_map
        self._routes = [build_route(design, size) for size in range(design.ladder.num_sizes)]

    def forward(self, ids_BL: torch.Tensor, size: int) -> Terms:
        """``cross_entropy``, ``kl``, ``alignment`` and their weighted ``loss``, means over tokens.

        The last token of a row has no next one and is not scored.
        """
        route = self._routes[size]
        ends, teacher_BLD = self._teacher(ids_BL)
        states, model_BLD = self._model(route, ids_BL)
        model = HeadInput(self._head(route.head), model_BLD[:, :-1].flatten(0, 1))
        teacher = HeadInput(self._head(Owner.TEACHER), teacher_BLD[:, :-1].flatten(0, 1))
        next_T = ids_BL[:, 1:].flatten()
        cross_entropy, kl = self._terms(model, teacher, next_T)
        distances = [
            distance(state, ends[block], self.objective.aligned_by)
            for block, state in states.items()
        ]
        alignment = torch.stack(distances).mean()
        terms = {"cross_entropy": cross_entropy, "kl": kl, "alignment": alignment}
        return {"loss": self.objective.total(terms), **{n: t.detach() for n, t in terms.items()}}

    def _head(self, owner: Owner) -> Any:
        return lambda hidden_TD: self._lanes.head(owner, hidden_TD)

    @torch.no_grad()
    def _teacher(self, ids_BL: torch.Tensor) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """The teacher's states at the end of each block, by block, and the last one."""
        hidden_BLD = self._runner.embed(ids_BL)
        ends = {}
        for index, block in enumerate(self._blocks):
            for layer in block.layers:
                hidden_BLD = self._runner.run(self._runner.layers[layer], layer, hidden_BLD)
            ends[index] = hidden_BLD
        return ends, hidden_BLD

    def _model(
        self, route: Route, ids_BL: torch.Tensor
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """The route's states behind its student layers, by block, and the last one."""
        hidden_BLD = self._lanes.embed(route.embedding, ids_BL)
        states = {}
        for ref in route.layers:
            hidden_BLD = self._lanes.step(ref, hidden_BLD)
            if ref.owner is Owner.STUDENT:
                states[ref.index] = hidden_BLD
        return states, hidden_BLD


def distill(
    teacher: Any,
    student: Student,
    design: FamilyDesign,
    rows_RL: torch.Tensor,
    settings: EndToEnd,
    seed: int,
    work: Path,
) -> Student:
    """Train the student end to end and return it, in float32.

    ``work`` receives the metrics and the state from which a stopped run goes on.  Under
    ``accelerate launch`` or ``torchrun`` each process takes its share of every step's rows; its
    ``teacher`` is on its own device, and the first process alone writes.
    Raises TrainingError when the loss is no longer a number, SettingsError for rows that the
    processes cannot share evenly.
    """
    device = next(teacher.parameters()).device
    own = {
        name: nn.Parameter(t.detach().to(device, torch.float32, copy=True))
        for name, t in student.tensors.items()
    }
    trained = student.with_tensors(own)
    distiller = Distiller(
        teacher, trained, design, settings.objective, rows_RL.shape[1], settings.compiled
    )
    schedule = Schedule(settings, len(rows_RL), design.ladder.num_sizes, seed)
    _Run(distiller, own, rows_RL, settings, schedule, work).run()
    return student.with_tensors({name: tensor.detach().cpu() for name, tensor in own.items()})


class _Run:
    """The loop over steps."""

    def __init__(
        self,
        distiller: Distiller,
        parameters: Mapping[str, nn.Parameter],
        rows_RL: torch.Tensor,
        settings: EndToEnd,
        schedule: Schedule,
        work: Path,
    ) -> None:
        self._settings, self._schedule, self._rows_RL = settings, schedule, rows_RL
        self._names = list(parameters)
        self._parameters = list(parameters.values())
        optimiser = torch.optim.AdamW(
            self._parameters, betas=(0.9, 0.95), weight_decay=settings.weight_decay
        )
        self._accelerator = Accelerator(
            cpu=self._parameters[0].device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self._model, self._optimiser = self._accelerator.prepare(distiller, optimiser)
        if settings.batch_rows % self._accelerator.num_processes:
            raise SettingsError(
                f"{self._accelerator.num_processes} processes cannot share "
                f"{settings.batch_rows} rows evenly: change batch_rows"
            )
        self._tokens = settings.batch_rows * rows_RL.shape[1]
        self._steps = math.ceil(settings.tokens / self._tokens)
        work.mkdir(parents=True, exist_ok=True)
        self._state = work / "state.pt"
        self._metrics = work / METRICS

    def run(self) -> None:
        """Train from the stored step to the last one."""
        every = max(1, self._steps // STATES)
        steps = range(self._restore(), self._steps)
        main = self._accelerator.is_main_process
        with tqdm(steps, desc="end to end", unit="step", disable=not main) as bar:
            for step in bar:
                terms = self._step(step)
                if step % max(1, self._steps // RECORDS) == 0 or step + 1 == self._steps:
                    self._record(step, terms, bar)
                if (step + 1) % every == 0 or step + 1 == self._steps:
                    self._store(step + 1)

    def _step(self, step: int) -> Terms:
        """One optimiser step; the terms of this process's rows."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.rate((step + 1) / self._steps)
        batches = list(self._micro_batches(step))
        sums: Terms = {}
        for index, ids_BL in enumerate(batches):
            last = index + 1 == len(batches)
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                with self._autocast():
                    terms = self._model(ids_BL, self._schedule.size(step))
                self._accelerator.backward(terms["loss"] / len(batches))
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / len(batches)
        if not math.isfinite(float(sums["loss"])):
            raise TrainingError(
                f"the loss of step {step} is not a number: lower the learning rate of "
                f"{self._settings.learning_rate}; the state before is kept in {self._state.parent}"
            )
        self._accelerator.clip_grad_norm_(self._parameters, self._settings.clip)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return sums

    def _autocast(self) -> torch.autocast:
        # not accelerate's own: its precision is fixed for the life of a process
        dtype = PRECISIONS[self._settings.precision]
        enabled = dtype is not torch.float32
        return torch.autocast(self._accelerator.device.type, dtype, enabled=enabled)

    def _micro_batches(self, step: int) -> Iterator[torch.Tensor]:
        """This process's share of the step's rows, ``micro_rows`` at a time (B, L)."""
        rows = self._schedule.rows(step)
        share = len(rows) // self._accelerator.num_processes
        mine = rows[share * self._accelerator.process_index :][:share]
        for part in batches(len(mine), self._settings.micro_rows):
            yield self._rows_RL[mine[part]].to(self._accelerator.device)

    def _record(self, step: int, terms: Terms, bar: Any) -> None:
        """A line of ``metrics.jsonl``, and the progress bar's text."""
        means = {n: float(v) for n, v in self._accelerator.reduce(terms, "mean").items()}
        if not self._accelerator.is_main_process:
            return
        speed = (bar.format_dict["rate"] or 0.0) * self._tokens
        bar.set_postfix_str(f"KL {means['kl']:.3f}, {speed:,.0f} tokens/s")
        line = {
            "step": step,
            "tokens": (step + 1) * self._tokens,
            "size": self._schedule.size(step),
        }
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **means, "tokens_per_second": round(speed)}) + "\n")

    def _store(self, step: int) -> None:
        """Keep everything that the next step depends on, whole or not at all."""
        if not self._accelerator.is_main_process:
            return
        state = {
            "step": step,
            "parameters": dict(zip(self._names, self._parameters, strict=True)),
            "optimiser": self._optimiser.state_dict(),
        }
        write_atomically(self._state, lambda path: torch.save(state, path))

    def _restore(self) -> int:
        """Take up the stored state; the step to go on with."""
        if not self._state.exists():
            self._keep_metrics_before(0)
            return 0
        state = torch.load(self._state, map_location=self._accelerator.device, weights_only=True)
        with torch.no_grad():
            for name, parameter in zip(self._names, self._parameters, strict=True):
                parameter.copy_(state["parameters"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])
        self._keep_metrics_before(start)
        return start

    def _keep_metrics_before(self, step: int) -> None:
        """Drop the lines of steps that will run again; a kill can have cut the last line short."""
        if not self._accelerator.is_main_process or not self._metrics.exists():
            return
        lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = (line for line in lines if line.endswith("\n"))
        before = "".join(line for line in whole if json.loads(line)["step"] < step)

        def write(temporary: Path) -> None:
            temporary.write_text(before, encoding="utf-8")

        write_atomically(self._metrics, write)
