"""Distil a student block after block: closed form first, then a few gradient steps.

Each block learns alone: its input is a stream of hidden states, its target the teacher's states
at the block's end.  Nothing is back-propagated through a second block and the vocabulary is never
touched, so a step costs the same for any model of the same width.

Shapes: R rows, B rows at a time, L tokens a row, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm, trange

from boomerang_core.blocks import Block, BlockMap
from boomerang_core.distill.closed_form import fit_down_map
from boomerang_core.distill.objective import relative_error
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.sinks import attention_sinks, token_weights
from boomerang_core.files import save_tensors
from boomerang_core.layer_runner import LayerRunner, batches
from boomerang_core.lowrank import add_delta, dense_weights
from boomerang_core.route import StudentKind
from boomerang_core.text.rows import Rows

Parameters = dict[str, torch.Tensor]
SINKS_EVERY = 4
"""One row in so many is searched for attention sinks, as they are alike in all rows.  In the others
every token counts alike."""


@dataclass(frozen=True)
class Regression:
    """What a block learns: inputs → targets (R, L, D), and what each token counts (R, L)."""

    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Fit:
    """A block's parameters and its held-out error at the start, after the closed form, at the end.

    The error is the weighted mean over tokens of ‖output - target‖² / ‖target‖².
    """

    parameters: Parameters
    errors: tuple[float, float, float]


class BlockTrainer:
    """Fits one student layer; `place` is the teacher layer that it starts from."""

    def __init__(self, runner: LayerRunner, place: int, recipe: Recipe) -> None:
        self._runner = runner
        self._place = place
        self._recipe = recipe
        self._layer = runner.layers[place]
        self._base = {name: value.detach() for name, value in self._layer.state_dict().items()}

    def weights(self, parameters: Mapping[str, torch.Tensor]) -> Parameters:
        """Dense weights of the student layer that differ from the teacher's."""
        return dense_weights(self._base, parameters, self._runner.architecture.conv1d)

    def run(self, weights: Parameters, hidden_BLD: torch.Tensor) -> torch.Tensor:
        """The student layer's output (B, L, D)."""
        return self._runner.run(self._layer, self._place, hidden_BLD, weights)

    def fit(self, parameters: Parameters, task: Regression, heldout: Regression, seed: int) -> Fit:
        """Closed form, then gradient steps; each is kept only where the held-out error falls."""
        start = self.error(parameters, heldout)
        closed = self._keep_better(parameters, start, self._closed_form(parameters, task), heldout)
        trained = self._gradient_steps(closed[0], task, seed)
        final = self._keep_better(*closed, trained, heldout)
        return Fit(final[0], (start, closed[1], final[1]))

    def _keep_better(
        self, old: Parameters, old_error: float, new: Parameters, heldout: Regression
    ) -> tuple[Parameters, float]:
        new_error = self.error(new, heldout)
        return (new, new_error) if new_error < old_error else (old, old_error)

    @torch.no_grad()
    def error(self, parameters: Parameters, task: Regression) -> float:
        """The block's error on a task."""
        weights = self.weights(parameters)
        total = 0.0
        for part in batches(len(task.inputs), self._recipe.batch_rows):
            total += self._errors(weights, task, part).sum().item()
        return total / len(task.inputs)

    def _errors(
        self, weights: Parameters, task: Regression, rows: slice | torch.Tensor
    ) -> torch.Tensor:
        """The errors of some rows (B,)."""
        output_BLD = self.run(weights, task.inputs[rows])
        return (relative_error(output_BLD, task.targets[rows]) * task.weights[rows]).sum(-1)

    @torch.no_grad()
    def _closed_form(self, parameters: Parameters, task: Regression) -> Parameters:
        down = self._runner.architecture.down_map
        weights = self.weights(parameters)
        lowrank = self._recipe.kind == StudentKind.LOWRANK

        def parts() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            for part in batches(len(task.inputs), self._recipe.batch_rows):
                yield task.inputs[part], task.targets[part], task.weights[part]

        delta = fit_down_map(
            lambda hidden_BLD: self.run(weights, hidden_BLD),
            self._layer.get_submodule(down),
            parts(),
            self._recipe.ridge,
            self._recipe.rank if lowrank else None,
        )
        return add_delta(parameters, down, delta, self._runner.architecture.conv1d)

    def _gradient_steps(self, parameters: Parameters, task: Regression, seed: int) -> Parameters:
        """Adam with a cosine that ends at a tenth of the rate, on rows in random order."""
        trained = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        optimiser = torch.optim.Adam(trained.values(), lr=self._recipe.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        steps = self._recipe.steps
        for step in trange(steps, desc="  steps", leave=False, disable=not steps):
            for group in optimiser.param_groups:
                group["lr"] = self._rate(step)
            rows = torch.randint(len(task.inputs), (self._recipe.step_rows,), generator=generator)
            optimiser.zero_grad()
            torch.autograd.backward(self._errors(self.weights(trained), task, rows).mean())
            optimiser.step()
        return {name: value.detach() for name, value in trained.items()}

    def _rate(self, step: int) -> float:
        progress = step / max(1, self._recipe.steps)
        return self._recipe.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


class Streams:
    """The teacher's and the student's hidden states, at the same block boundary.

    `weights_RL` is what each token counts in every block's error.
    """

    @torch.no_grad()
    def __init__(self, runner: LayerRunner, ids_RL: torch.Tensor, recipe: Recipe) -> None:
        self._runner = runner
        self._batch_rows = recipe.batch_rows
        self.teacher_RLD = torch.cat([runner.embed(ids_RL[part]) for part in self._parts(ids_RL)])
        self.student_RLD = self.teacher_RLD.clone()
        sinks_RL = self._sinks() if recipe.sinks else torch.zeros_like(ids_RL, dtype=torch.bool)
        self.weights_RL = token_weights(sinks_RL.to(runner.device), recipe.sinks)

    def _parts(self, rows: torch.Tensor) -> Iterator[slice]:
        return batches(len(rows), self._batch_rows)

    def _sinks(self) -> torch.Tensor:
        """Attention sinks (R, L) of some rows: to find them takes the whole teacher."""
        seen_RLD = self.teacher_RLD[::SINKS_EVERY]
        found_RL = torch.zeros(self.teacher_RLD.shape[:2], dtype=torch.bool)
        found_RL[::SINKS_EVERY] = torch.cat(
            [
                attention_sinks(self._runner.states(seen_RLD[part])).cpu()
                for part in self._parts(seen_RLD)
            ]
        )
        return found_RL

    @torch.no_grad()
    def task(self, block: Block, student_stream: bool) -> Regression:
        """From a stream at the block's start to the teacher's states at its end."""
        inputs_RLD = self.student_RLD if student_stream else self.teacher_RLD
        return Regression(inputs_RLD, self._through(self.teacher_RLD, block), self.weights_RL)

    def _through(self, hidden_RLD: torch.Tensor, block: Block) -> torch.Tensor:
        out_RLD = torch.empty_like(hidden_RLD)
        for part in self._parts(hidden_RLD):
            state_BLD = hidden_RLD[part]
            for layer in block.layers:
                state_BLD = self._runner.run(self._runner.layers[layer], layer, state_BLD)
            out_RLD[part] = state_BLD
        return out_RLD

    @torch.no_grad()
    def advance_shared(self, block: Block) -> None:
        """Both streams pass through the teacher's own layer."""
        self.teacher_RLD = self._through(self.teacher_RLD, block)
        self.student_RLD = self._through(self.student_RLD, block)

    @torch.no_grad()
    def advance(
        self, trainer: BlockTrainer, parameters: Parameters, teacher_RLD: torch.Tensor
    ) -> None:
        """The student's stream passes through its layer, the teacher's takes `teacher_RLD`."""
        weights = trainer.weights(parameters)
        for part in self._parts(self.student_RLD):
            self.student_RLD[part] = trainer.run(weights, self.student_RLD[part])
        self.teacher_RLD = teacher_RLD


def distill_blocks(
    runner: LayerRunner,
    block_map: BlockMap,
    initial: Mapping[int, Parameters],
    rows: Rows,
    recipe: Recipe,
    work: Path,
) -> dict[int, Fit]:
    """Fit every block that is not shared, in order.

    A finished block is left in `work`; a later call with the same folder reads it instead.
    """
    own = [index for index, block in enumerate(block_map) if not block.shared]
    stored = {index: _stored(work, index, runner.device) for index in own}
    if all(stored.values()):
        return {index: fit for index, fit in stored.items() if fit is not None}
    train, heldout = (Streams(runner, each, recipe) for each in (rows.train, rows.heldout))
    fits: dict[int, Fit] = {}
    on_own = recipe.student_stream(block_map)
    with tqdm(block_map, desc="blocks", unit="block") as bar:
        for index, block in enumerate(bar):
            if block.shared:
                train.advance_shared(block)
                heldout.advance_shared(block)
                continue
            trainer = BlockTrainer(runner, block.kept, recipe)
            task, unseen = (each.task(block, on_own) for each in (train, heldout))
            fit = stored[index]
            if fit is None:
                fit = trainer.fit(initial[index], task, unseen, recipe.seed + index)
                _store(fit, work, index)
            train.advance(trainer, fit.parameters, task.targets)
            heldout.advance(trainer, fit.parameters, unseen.targets)
            fits[index] = fit
            shown = fit.errors if recipe.steps else fit.errors[:2]
            bar.set_postfix_str(f"error {' → '.join(f'{error:.3f}' for error in shown)}")
    return fits


def _stored(work: Path, index: int, device: torch.device) -> Fit | None:
    path = _block_file(work, index)
    if not path.exists():
        return None
    parameters = load_file(path, device=str(device))
    start, closed, trained = parameters.pop("errors").tolist()
    return Fit(parameters, (start, closed, trained))


def _store(fit: Fit, work: Path, index: int) -> None:
    # float64, so that a resumed run reports the figures of an uninterrupted one
    errors = torch.tensor(fit.errors, dtype=torch.float64)
    save_tensors({**fit.parameters, "errors": errors}, _block_file(work, index))


def _block_file(work: Path, index: int) -> Path:
    return work / f"block-{index:03d}.safetensors"
