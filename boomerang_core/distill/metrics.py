"""What a training run tells while it runs: `metrics.jsonl`, TensorBoard files, a progress bar."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from boomerang_core.errors import SettingsError
from boomerang_core.files import write_text, writing

METRICS = "metrics.jsonl"
_SHOWN = {"cross_entropy": "CE", "kl": "KL", "alignment": "alignment"}


def require_tensorboard() -> None:
    """Raise SettingsError where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise SettingsError("TensorBoard files need a package: pip install tensorboard")


def tell_skipped(step: int) -> None:
    """Say that a step was not taken, above the bar."""
    tqdm.write(f"step {step} skipped: its loss or gradient is not a number", file=sys.stderr)


class Means:
    """The means of what steps found since the last record, by kind: `student/kl`.

    Sizes differ in their loss by more than a run improves it, so steps on a size between are not
    counted with those on the student.  Beside them how many steps of each kind there were, how
    many were skipped, whose values count for nothing, and the last learning rate.
    """

    def __init__(self) -> None:
        self._steps: dict[str, list[Mapping[str, float]]] = {}
        self._skipped = 0
        self._rate = 0.0

    def add(self, kind: str, values: Mapping[str, float]) -> None:
        """What a step of one kind found, `learning_rate` among it."""
        found = dict(values)
        self._rate = found.pop("learning_rate")
        if all(map(math.isfinite, found.values())):
            self._steps.setdefault(kind, []).append(found)
        else:
            self._skipped += 1

    def take(self) -> dict[str, float]:
        """The means, which then begin again."""
        means: dict[str, float] = {}
        for kind, steps in sorted(self._steps.items()):
            means[f"{kind}/steps"] = len(steps)
            for name in steps[0]:
                means[f"{kind}/{name}"] = math.fsum(each[name] for each in steps) / len(steps)
        means |= {"skipped": self._skipped, "learning_rate": self._rate}
        self._steps, self._skipped = {}, 0
        return means


class Metrics:
    """A line of JSON for a record, and the same numbers for TensorBoard, each step once."""

    def __init__(self, path: Path, tensorboard: Path | None, step: int, tokens: int) -> None:
        """The run goes on with `step`, `tokens` seen; what was recorded from there on goes.

        Raises WriteError.
        """
        self._path, self._tensorboard = path, tensorboard
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._keep_before(step)
        self._board = None if tensorboard is None else _board(tensorboard, step)
        self._last = time.monotonic(), tokens

    def _keep_before(self, step: int) -> None:
        """A kill can have cut the last line short."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        write_text(self._path, "".join(line for line in whole if json.loads(line)["step"] < step))

    def record(self, step: int, tokens: int, values: Mapping[str, float]) -> None:
        """`tokens` are all that the run has seen; the speed is that since the last record.

        Raises WriteError.
        """
        now, (then, before) = time.monotonic(), self._last
        self._last = now, tokens
        speed = round((tokens - before) / max(now - then, 1e-9))
        numbers = {"tokens": tokens, **values, "tokens_per_second": speed}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        if self._board is not None:
            with writing(self._tensorboard):
                for name, value in numbers.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()  # a kill must not lose what metrics.jsonl has

    def close(self) -> None:
        """Close TensorBoard's file, whose last record is on disk already.

        Or it failed to come there: on a full disk `record` has said so, and closing fails again.
        """
        if self._board is not None:
            with suppress(OSError):
                self._board.close()


def _board(folder: Path, step: int) -> Any:
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with writing(folder):
        return SummaryWriter(str(folder), purge_step=step)


class Progress:
    """A bar over tokens: how many, tokens/s and time left, the size and the loss terms."""

    def __init__(self, tokens: int, total: int, shown: bool) -> None:
        self._bar = tqdm(
            desc="end to end",
            initial=tokens,
            total=total,
            unit=" tokens",
            unit_scale=True,
            disable=not shown,
        )

    def advance(self, tokens: int, terms: Mapping[str, float]) -> None:
        """`tokens` more, and the terms of their step."""
        text = ", ".join(
            f"{short} {terms[name]:.3f}" for name, short in _SHOWN.items() if name in terms
        )
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(tokens)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
