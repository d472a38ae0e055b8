"""Run under torchrun: distil a tiny student on all processes; the folder for it is argument 1."""

import sys
from pathlib import Path

import torch

from boomerang_core.distill.endtoend import distill
from boomerang_core.route import StudentKind
from tests.core.conftest import tiny_teacher
from tests.core.test_endtoend import SETTINGS, start, tiny_rows

if __name__ == "__main__":
    torch.set_num_threads(1)
    teacher = tiny_teacher("llama", True)
    student, design = start(teacher, StudentKind.LOWRANK)
    distill(teacher, student, design, tiny_rows(), SETTINGS, 0, Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
