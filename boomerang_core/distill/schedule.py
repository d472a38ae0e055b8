"""How to train end to end, and what each step trains on.

Shapes: R rows in all, B rows of a step, L tokens a row.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from boomerang_core.devices import multiplies_bfloat16
from boomerang_core.distill.objective import Objective
from boomerang_core.errors import SettingsError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
AUTO = "auto"


@dataclass(frozen=True)
class EndToEnd:
    """How to train end to end.  `tokens` 0 leaves the stage out.

    The defaults are for minutes of a CPU, where many small steps are worth more than few large
    ones; `recipes/gpu.json` is for a GPU.
    `interpolated` is the share of steps on a size between student and teacher.  `precision`
    is that of the matrix products; parameters and the residual stream stay in float32.  `auto`
    is bf16 on a machine with instructions for it (`on`).
    `compiled` costs a minute at the start and about halves a step on a GPU.
    `activation_checkpointing` keeps of a layer its inputs alone and runs it again for its
    gradient: less memory for more time.
    """

    tokens: int = 49_152
    batch_rows: int = 1
    micro_rows: int = 1
    learning_rate: float = 2e-3
    warmup: float = 0.02
    last_rate: float = 0.02
    weight_decay: float = 0.0
    clip: float = 1.0
    interpolated: float = 0.3
    precision: str = AUTO
    compiled: bool = False
    activation_checkpointing: bool = False
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        if min(self.batch_rows, self.micro_rows) < 1 or self.batch_rows % self.micro_rows:
            raise SettingsError("micro_rows must be at least 1 and divide batch_rows")
        if self.precision not in (*PRECISIONS, AUTO):
            names = ", ".join((*PRECISIONS, AUTO))
            raise SettingsError(f"precision must be one of {names}, got {self.precision!r}")
        for name in ("warmup", "last_rate", "interpolated"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("tokens", "weight_decay"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} must be above 0, got {getattr(self, name)}")

    def on(self, device: torch.device) -> Self:
        """The same with a precision that is not `auto`, for the machine that trains."""
        if self.precision != AUTO:
            return self
        return replace(self, precision="bf16" if multiplies_bfloat16(device) else "fp32")

    def share(self, processes: int) -> int:
        """Rows of a step that each process takes.  Raises SettingsError where that is uneven."""
        if self.batch_rows % processes:
            raise SettingsError(
                f"{processes} processes cannot share {self.batch_rows} rows evenly: "
                f"set end_to_end.batch_rows to a multiple of {processes}"
            )
        return self.batch_rows // processes

    def rate(self, progress: float) -> float:
        """The learning rate: a linear rise, then a cosine down to `last_rate` of the peak."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        fallen = (progress - self.warmup) / max(1 - self.warmup, 1e-9)
        share = self.last_rate + (1 - self.last_rate) * (1 + math.cos(math.pi * fallen)) / 2
        return self.learning_rate * share


class Schedule:
    """What each step trains on: a function of the seed and the step, so that none is stored."""

    def __init__(self, settings: EndToEnd, num_rows: int, sizes: int, seed: int) -> None:
        self._settings = settings
        self._num_rows = num_rows
        self._between = range(1, sizes - 1)
        self._seed = seed
        self._order: tuple[int, torch.Tensor] | None = None

    def rows(self, step: int) -> torch.Tensor:
        """Indices (B,) of the step's rows: every row once an epoch, each epoch in its own order."""
        first = step * self._settings.batch_rows
        places = range(first, first + self._settings.batch_rows)
        return torch.stack([self._place(place) for place in places])

    def _place(self, place: int) -> torch.Tensor:
        epoch, offset = divmod(place, self._num_rows)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed + epoch)
            self._order = epoch, torch.randperm(self._num_rows, generator=generator)
        return self._order[1][offset]

    def size(self, step: int) -> int:
        """The size that the step trains: 0 is the student."""
        draw = random.Random(f"{self._seed}/{step}")
        if self._between and draw.random() < self._settings.interpolated:
            return draw.choice(self._between)
        return 0
