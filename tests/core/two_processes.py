"""Run under torchrun, with an empty folder as argument: tiny students distilled by all processes.

    FOLDER/KIND-compiled  a whole run with compiled layers, where `compiled` is a second argument;
                          then nothing else
    FOLDER/bf16           a whole run of a full student, in bfloat16
    FOLDER/KIND           a whole run
    FOLDER/KIND-stopped   the same, stopped in step 3
    FOLDER/KIND-resumed   that one again, to its end
    …/student.safetensors what the first process ends with

The teacher must end as it began.  `FOLDER/held.json` has the share of all parameters that the
first process holds between two steps, by kind.
"""

import json
import math
import shutil
import sys
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

from boomerang_core.distill import endtoend
from boomerang_core.distill.distiller import Distiller
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.errors import SettingsError
from boomerang_core.route import StudentKind
from tests.core.conftest import tiny_teacher
from tests.core.tiny_run import ROW, SETTINGS, before_step, start, tiny_rows

SHORT = replace(SETTINGS, tokens=5 * 6 * ROW, batch_rows=6, micro_rows=2)
"""Three rows of each step for each process: two micro batches that are not equal."""
BF16 = replace(SHORT, precision="bf16")


class StoppedError(Exception):
    """Stands for a kill."""


def distil(folder: Path, kind: StudentKind, settings: EndToEnd = SHORT) -> None:
    teacher = tiny_teacher("llama", True)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, design = start(teacher, kind, kind is StudentKind.FULL)
    trained = endtoend.distill(teacher, student, design, tiny_rows(), settings, 0, folder)
    if PartialState().is_main_process:
        save_file(dict(trained.tensors), folder / "student.safetensors")
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def compiled(folder: Path) -> None:
    for kind in StudentKind:
        distil(folder / f"{kind}-compiled", kind, replace(SHORT, compiled=True))


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

    def stop() -> None:
        raise StoppedError

    with pytest.raises(SettingsError, match="2 processes cannot share 3 rows evenly"):
        distil(folder, StudentKind.FULL, replace(SHORT, batch_rows=3, micro_rows=1))
    distil(folder / "bf16", StudentKind.FULL, BF16)
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
    (compiled if sys.argv[2:] == ["compiled"] else main)(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
