"""The processes that share a run: who waits for whom, and that they agree on what they do.

Without `accelerate launch` or `torchrun` there is one, which waits for nobody.
"""

from __future__ import annotations

import gc
import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    broadcast,
)
from torch import distributed, nn

from boomerang_core.distill.distiller import Distiller
from boomerang_core.distill.schedule import PRECISIONS, EndToEnd
from boomerang_core.distill.sharding import checkpoint_units, fsdp_settings, shard
from boomerang_core.errors import BoomerangError, TrainingError

_ORDINARY = timedelta(hours=1)
"""How late one of the processes that work side by side may be: it may compile, or write a state."""

_PATIENT = timedelta(days=30)
"""How long the first may work alone, while the teacher writes and blocks and sizes are measured."""


class Turns:
    """The processes of a whole run, of which the first prepares and ends it."""

    def __init__(self, stage: EndToEnd, device: str | None) -> None:
        """`device` None is a GPU where there is one.

        Raises SettingsError, now and not days later, for what the end-to-end stage cannot work
        with: rows that they cannot share evenly, a configuration of FSDP that it cannot follow.
        """
        on_cpu = device.startswith("cpu") if device else not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, timeout=_ORDINARY)
        self.count, self.is_first = state.num_processes, state.is_main_process
        self.device = torch.device(state.device)
        fsdp_settings(self.count)
        if stage.tokens:
            stage.share(self.count)
        self._patient = None
        if self.count > 1:  # no GPU waits in it, and no collective but its barriers
            self._patient = distributed.new_group(timeout=_PATIENT, backend="gloo")

    def wait(self) -> None:
        """Go on when all have come here, which may take days."""
        if self._patient is not None:
            distributed.barrier(self._patient)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process alone, then the others together: they find its work on disk."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


@contextmanager
def ending_processes() -> Iterator[None]:
    """End the group of processes after the work inside; after an error Python's exit ends it.

    What holds the group is freed first.  A model that DDP wraps may sit in a cycle, or in the
    frames of an error; found later, it would be the last holder, and end the group under Python's
    lock, for which threads of the group may wait: the process would never end.
    """
    try:
        yield
    except BaseException as error:
        _clear_frames(error)
        gc.collect()
        raise
    gc.collect()
    PartialState().destroy_process_group()


def _clear_frames(error: BaseException | None) -> None:
    """Forget the variables of the frames that an error, and those behind it, came through."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def agreed(find: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `find` tells by name, which must be the same on every process; all must ask.

    Raises on every process, so that none waits for one that has ended: what `find` raised here,
    TrainingError for what it raised elsewhere and where it told another thing there.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return find()
    mine, error = None, None
    try:
        mine = dict(find())
    except BoomerangError as caught:
        error = caught
    told: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, (mine, error and str(error)))
    if error is not None:
        raise error
    assert mine is not None
    for process, (_, failure) in enumerate(told):
        if failure is not None:
            raise TrainingError(f"process {process} cannot go on: {failure}")
    for process, (theirs, _) in enumerate(told):
        first = told[0][0]
        if names := [name for name in first if theirs[name] != first[name]]:
            raise TrainingError(
                f"process {process} has another {' and '.join(names)} than the first: all need the "
                "same command and the same work folder, on a volume that all of them see"
            )
    return mine


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names and bytes, for processes to compare."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        whole = tensors[name].detach().cpu().contiguous()
        found.update(whole.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


class Trainers:
    """The processes of the end-to-end stage, as `accelerate` is configured."""

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
        self._checkpointing = settings.activation_checkpointing or bool(
            self.fsdp and self.fsdp.activation_checkpointing
        )
        self._share = settings.share(self.count)

    def spread(
        self, distiller: Distiller, own: dict[str, nn.Parameter]
    ) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """The module that makes a step on every process, and the parameters that it trains.

        Empties `own` where it shards them: they must not be held whole as well.
        """
        if self._checkpointing:
            checkpoint_units(distiller.units)
        if self.fsdp is not None:
            return distiller, shard(distiller, distiller.units, own, self.fsdp, self.precision)
        return (self.accelerator.prepare(distiller) if self.count > 1 else distiller), own

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's share of a step's rows."""
        return rows[self._share * self.accelerator.process_index :][: self._share]

    def first_says(self, answer: bool) -> bool:
        """The first process's answer, on every one."""
        return bool(broadcast(torch.tensor(int(answer), device=self.device)))

    def means(self, values: torch.Tensor) -> list[float]:
        """The means over all processes, the same on every one."""
        found: list[float] = self.accelerator.reduce(values, "mean").tolist()
        return found

    def autocast(self) -> torch.autocast:
        """Matrix products in the run's precision.

        Not accelerate's own: its precision is fixed for the life of a process.
        """
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=enabled)

    def gradients_stay(self, model: nn.Module, stay: bool) -> Any:
        """A context in which a backward pass, if there is one, adds to this process's own alone.

        Not with FSDP, where gradients would be whole on every process.
        """
        if not stay or self.fsdp is not None:
            return nullcontext()
        return self.accelerator.no_sync(model)
