"""A low-rank family made full computes the same."""

import json
from pathlib import Path

import pytest
import torch

from boomerang_core.architectures import Maps
from boomerang_core.assemble import assemble
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.record import save_report
from boomerang_core.family import Family, family_source, load_family
from boomerang_core.merging import merge_family
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import load_student
from tests.core.conftest import tiny_design, tiny_student, tiny_teacher, write_tiny_family

REPORTS = ("tasks.json", "similarity.json")


@pytest.mark.parametrize("maps", Maps)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_merged_family_computes_what_the_family_does(
    model_type: str, maps: Maps, tmp_path: Path
) -> None:
    teacher = tiny_teacher(model_type, True)
    student = tiny_student(teacher, StudentKind.LOWRANK)
    design = tiny_design(StudentKind.LOWRANK)
    family = write_tiny_family(tmp_path / "family", teacher, student, design)
    for name, source in zip(REPORTS, (family_source(family), {}), strict=True):
        save_report(family, name, {"source": source})
    merged = merge_family(load_family(family.root), tmp_path / "merged", maps)
    assert (merged.design.kind is StudentKind.FULL) is (maps is Maps.ALL)
    load_student(merged.student_dir).check(teacher)
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
    with pytest.raises(SettingsError, match="nothing to merge"):
        merge_family(merged, tmp_path / "again", maps)


def test_the_rest_can_be_merged_later(tmp_path: Path) -> None:
    teacher = tiny_teacher("llama", True)
    student = tiny_student(teacher, StudentKind.LOWRANK)
    design = tiny_design(StudentKind.LOWRANK)
    family = write_tiny_family(tmp_path / "family", teacher, student, design)
    attention = merge_family(family, tmp_path / "attention", Maps.ATTENTION)
    names = load_student(attention.student_dir).tensors
    assert all(".mlp." in name for name in names if "lora" in name)
    assert family.student_params < attention.student_params
    whole, twice = merge_family(family, tmp_path / "whole"), merge_family(attention, tmp_path / "2")
    assert whole.student_params == twice.student_params
    tensors = load_student(whole.student_dir).tensors
    assert all(
        torch.equal(tensor, tensors[name])
        for name, tensor in load_student(twice.student_dir).tensors.items()
    )
