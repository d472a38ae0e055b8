"""A low-rank family made full computes the same."""

from pathlib import Path

import pytest
import torch

from bench.twin import full_twin
from boomerang_core.assemble import assemble
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import load_student
from tests.core.conftest import tiny_design, tiny_student, tiny_teacher, write_tiny_family


def test_the_twin_computes_what_the_family_does(tmp_path: Path) -> None:
    teacher = tiny_teacher("llama", True)
    student = tiny_student(teacher, StudentKind.LOWRANK)
    design = tiny_design(StudentKind.LOWRANK)
    family = write_tiny_family(tmp_path / "family", teacher, student, design)
    twin = full_twin(family, tmp_path / "twin")
    assert twin.design.kind is StudentKind.FULL
    ids_BL = torch.arange(12).reshape(2, 6)

    def logits(of: Family, size: int) -> torch.Tensor:
        model = assemble(teacher, load_student(of.student_dir), build_route(of.design, size))
        found: torch.Tensor = model(ids_BL).logits
        return found

    for size in range(design.ladder.num_sizes):
        torch.testing.assert_close(logits(twin, size), logits(family, size), rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingsError, match="full student already"):
        full_twin(twin, tmp_path / "again")
