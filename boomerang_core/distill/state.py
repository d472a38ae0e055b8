"""The state of a training run on disk: all that its next step depends on.

One file of whole tensors, however many processes trained them, so a run can go on with another
number of processes, sharded or not: `parameters/NAME`, and what AdamW keeps of each, as
`exp_avg/NAME`.  `run` is JSON as bytes: the step to go on with, and the run that it belongs to.
Rows, sizes and rates follow from the step and the seed, and nothing else in a step is random.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from boomerang_core.distill.sharding import sharded_like, whole
from boomerang_core.errors import CheckpointError
from boomerang_core.files import save_tensors

STATE = "state.safetensors"


class RunState:
    """Stores and restores trained parameters and their optimiser.

    Every process must call both methods; only the one that `writes` does write.
    """

    def __init__(
        self,
        path: Path,
        run: Mapping[str, Any],
        parameters: Mapping[str, nn.Parameter],
        optimiser: torch.optim.Optimizer,
        writes: bool,
    ) -> None:
        """`run` is JSON: what must be equal for a stored state to belong here."""
        self.path = path
        self._run: dict[str, Any] = json.loads(json.dumps(dict(run)))
        self._parameters = parameters
        self._optimiser = optimiser
        self._writes = writes
        self.step: int | None = None
        """The step that the file goes on with; None where there is none."""
        self.seconds = 0.0
        """The time that has gone into storing."""

    def __str__(self) -> str:
        if self.step is None:
            return f"no state was kept in {self.path} yet"
        return f"the state before step {self.step} is whole in {self.path}"

    def store(self, step: int) -> None:
        """Keep the state before a step, whole or not at all.  Raises WriteError."""
        begun = time.perf_counter()
        tensors = {"run": _as_bytes({**self._run, "step": step})}
        for name, parameter in self._parameters.items():
            values = {"parameters": parameter.detach(), **self._optimiser.state[parameter]}
            for kind, value in values.items():
                gathered = whole(value)
                if self._writes:
                    tensors[f"{kind}/{name}"] = gathered.cpu()
        if self._writes:
            save_tensors(tensors, self.path)
        self.step = step
        self.seconds += time.perf_counter() - begun

    def restore(self) -> int:
        """Take up the stored state; the step to go on with, 0 where nothing is stored.

        Raises CheckpointError for a file that is damaged or of another run.
        """
        if self._writes:
            for left in self.path.parent.glob(f".{self.path.name}.*"):
                left.unlink()  # half a file, of a process that was killed as it wrote
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                run = json.loads(bytes(file.get_tensor("run").tolist()))
                self.step = int(run.pop("step"))
                self._check(run)
                self._load(file)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"cannot go on from {self.path}: {error}; delete it to begin again"
            ) from error
        return self.step

    def _check(self, run: Mapping[str, Any]) -> None:
        if differing := sorted(name for name in self._run if run.get(name) != self._run[name]):
            raise CheckpointError(
                f"{self.path} is the state of a run with another {' and '.join(differing)}: "
                "delete it, or give this run a folder of its own"
            )

    def _load(self, file: Any) -> None:
        moments: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self._parameters}
        keys: list[str] = file.keys()
        for key in keys:
            kind, _, name = key.partition("/")
            if kind == "parameters":
                parameter = self._parameters[name]
                with torch.no_grad():
                    parameter.copy_(sharded_like(file.get_tensor(key), parameter))
            elif name:
                moments[name][kind] = file.get_tensor(key)
        for name, stored in moments.items():
            parameter = self._parameters[name]
            self._optimiser.state[parameter] = {
                kind: value if kind == "step" else sharded_like(value, parameter)
                for kind, value in stored.items()
            }


def _as_bytes(value: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
