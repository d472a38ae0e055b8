"""Run under torchrun, with an empty folder as argument: tiny students distilled by all processes.

    FOLDER/KIND-compiled  a whole run with compiled layers, where `compiled` is a second argument;
                          then nothing else
    FOLDER/bf16           a whole run of a full student, in bfloat16
    FOLDER/KIND           a whole run
    FOLDER/KIND-stopped   the same, stopped in step 3
    FOLDER/KIND-resumed   that one again, to its end
    FOLDER/checkpointed   a whole run of a full student that keeps no activations
    FOLDER/configured     the same, as accelerate's configuration of FSDP says it
    FOLDER/mixed          a whole run of which some steps learn nothing
    FOLDER/told           a run that the second process alone is told to stop, and that goes on
    …/student.safetensors what the first process ends with

With `apart` as second argument: runs that the processes do not agree on, and nothing else.

The teacher must end as it began.  `FOLDER/held.json` has the share of all parameters that the
first process holds between two steps, by kind.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import nn

from boomerang_core import errors
from boomerang_core.distill import endtoend
from boomerang_core.distill.distiller import Distiller
from boomerang_core.distill.processes import ending_processes
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.state import STATE
from boomerang_core.errors import CheckpointError, SettingsError, TrainingError
from boomerang_core.route import StudentKind
from tests.core.conftest import tiny_teacher
from tests.core.tiny_run import ROW, SETTINGS, before_step, shared_end, start, tiny_rows

SHORT = replace(SETTINGS, tokens=5 * 6 * ROW, batch_rows=6, micro_rows=2)
"""Three rows of each step for each process: two micro batches that are not equal."""
BF16 = replace(SHORT, precision="bf16")


class StoppedError(Exception):
    """Stands for a kill."""


def distil(folder: Path, kind: StudentKind, settings: EndToEnd = SHORT, rows: int = 10) -> None:
    teacher = tiny_teacher("llama", True)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, design = start(teacher, kind, kind is StudentKind.FULL)
    trained = endtoend.distill(teacher, student, design, tiny_rows()[:rows], settings, 0, folder)
    if PartialState().is_main_process:
        save_file(dict(trained.tensors), folder / "student.safetensors")
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def compiled(folder: Path) -> None:
    for kind in StudentKind:
        distil(folder / f"{kind}-compiled", kind, replace(SHORT, compiled=True))


def is_second() -> bool:
    return PartialState().process_index == 1


def apart(folder: Path) -> None:
    """The second process has no state, other text, a damaged state: all hear of it at once."""
    full, begun = StudentKind.FULL, time.monotonic()
    one, other = folder / "one", folder / "other"
    with suppress(StoppedError), before_step(3, stop):
        distil(one, full)
    with pytest.raises(TrainingError, match="process 1 has another step to go on with than the fi"):
        distil(other if is_second() else one, full)
    with pytest.raises(TrainingError, match="process 1 has another rows than the first"):
        distil(one, full, rows=9 if is_second() else 10)
    if is_second():
        other.mkdir(exist_ok=True)
        (other / STATE).write_bytes(b"not tensors")
    expected = CheckpointError if is_second() else TrainingError
    with pytest.raises(expected, match="cannot go on"):
        distil(other if is_second() else one, full)
    assert time.monotonic() - begun < 60


def checkpointed(folder: Path) -> None:
    full = StudentKind.FULL
    distil(folder / "checkpointed", full, replace(SHORT, activation_checkpointing=True))
    with mock.patch.dict(os.environ, FSDP_ACTIVATION_CHECKPOINTING="true"):
        distil(folder / "configured", full)


def told(folder: Path) -> None:
    """All stop, in the same step, when one is told to."""

    def tell() -> None:
        if is_second():
            os.kill(os.getpid(), signal.SIGTERM)

    with before_step(2, tell), pytest.raises(errors.StoppedError, match="before step 3 is whole"):
        distil(folder / "told", StudentKind.FULL)
    PartialState().wait_for_everyone()
    distil(folder / "told", StudentKind.FULL)


def mixed(folder: Path) -> None:
    """Steps of which half learn nothing: their size is all the teacher's."""
    teacher = tiny_teacher("llama", True)
    half = replace(SHORT, tokens=8 * 6 * ROW, interpolated=0.5)
    trained = endtoend.distill(
        teacher, *shared_end(teacher, False), tiny_rows(), half, 0, folder / "mixed"
    )
    if PartialState().is_main_process:
        save_file(dict(trained.tensors), folder / "mixed" / "student.safetensors")


def stop() -> None:
    raise StoppedError


def held(module: nn.Module) -> float:
    parameters = list(module.parameters())
    local = sum(getattr(p, "_local_tensor", p).numel() for p in parameters)
    return local / sum(parameter.numel() for parameter in parameters)


def main(folder: Path) -> None:
    shares: dict[str, float] = {}
    made: list[Distiller] = []

    def keep(*arguments: Any, **named: Any) -> Distiller:
        made.append(Distiller(*arguments, **named))
        return made[-1]

    with pytest.raises(SettingsError, match="2 processes cannot share 3 rows evenly"):
        distil(folder, StudentKind.FULL, replace(SHORT, batch_rows=3, micro_rows=1))
    distil(folder / "bf16", StudentKind.FULL, BF16)
    checkpointed(folder)
    mixed(folder)
    told(folder)
    for kind in StudentKind:
        with (
            mock.patch.object(endtoend, "Distiller", keep),
            before_step(2, lambda kind=kind: shares.update({kind: held(made[-1])})),
        ):
            distil(folder / kind, kind)
        with suppress(StoppedError), before_step(3, stop):
            distil(folder / f"{kind}-stopped", kind)
        if PartialState().is_main_process:
            shutil.copytree(folder / f"{kind}-stopped", folder / f"{kind}-resumed")
        PartialState().wait_for_everyone()
        distil(folder / f"{kind}-resumed", kind)
    if PartialState().is_main_process:
        (folder / "held.json").write_text(json.dumps(shares))


if __name__ == "__main__":
    torch.set_num_threads(1)
    endtoend.FREE_SECONDS = math.inf  # a state after each step, however busy the machine is
    with ending_processes():
        {"compiled": compiled, "apart": apart}.get("".join(sys.argv[2:]), main)(Path(sys.argv[1]))
