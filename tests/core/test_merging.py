"""A low-rank family made full computes the same."""

import json
from pathlib import Path

import pytest
import torch

from boomerang_core.assemble import assemble
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.comparison import family_source
from boomerang_core.evaluate.record import save_report
from boomerang_core.family import Family, load_family
from boomerang_core.merging import merge_family
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import load_student
from tests.core.conftest import tiny_design, tiny_student, tiny_teacher, write_tiny_family

REPORTS = ("tasks.json", "similarity.json")


def test_the_merged_family_computes_what_the_family_does(tmp_path: Path) -> None:
    teacher = tiny_teacher("llama", True)
    student = tiny_student(teacher, StudentKind.LOWRANK)
    design = tiny_design(StudentKind.LOWRANK)
    family = write_tiny_family(tmp_path / "family", teacher, student, design)
    for name, source in zip(REPORTS, (family_source(family), {}), strict=True):
        save_report(family, name, {"source": source})
    merged = merge_family(load_family(family.root), tmp_path / "merged")
    assert merged.design.kind is StudentKind.FULL
    ids_BL = torch.arange(12).reshape(2, 6)

    def logits(of: Family, size: int) -> torch.Tensor:
        model = assemble(teacher, load_student(of.student_dir), build_route(of.design, size))
        found: torch.Tensor = model(ids_BL).logits
        return found

    for size in range(design.ladder.num_sizes):
        torch.testing.assert_close(logits(merged, size), logits(family, size), rtol=1e-4, atol=1e-4)
    sources = [
        json.loads((merged.root / "report" / name).read_text())["source"] for name in REPORTS
    ]
    assert sources == [family_source(merged), {}]  # what measured another student still does
    with pytest.raises(SettingsError, match="full student already"):
        merge_family(merged, tmp_path / "again")
