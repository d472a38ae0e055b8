"""Run as a process: FOLDER KIND WHERE.  A tiny run that kills itself, in a step or in a write."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from boomerang_core.distill.endtoend import distill
from boomerang_core.route import StudentKind
from tests.core.conftest import tiny_teacher
from tests.core.tiny_run import SETTINGS, before_step, start, tiny_rows


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def break_writes() -> None:
    """From now on a file of tensors is half written when the process dies."""
    plain = safetensors.torch.save_file

    def half(tensors: dict[str, torch.Tensor], path: Any) -> None:
        plain(tensors, path)
        os.truncate(path, os.path.getsize(path) // 2)
        kill()

    safetensors.torch.save_file = half


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, kind, where = Path(sys.argv[1]), StudentKind(sys.argv[2]), sys.argv[3]
    teacher = tiny_teacher("llama", True)
    student, design = start(teacher, kind)
    with before_step(13, {"step": kill, "write": break_writes}[where]):
        distill(teacher, student, design, tiny_rows(), SETTINGS, 0, folder)
