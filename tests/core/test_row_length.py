"""Rows longer than a teacher's learned positions: one clear error, before anything is made."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.distill.pipeline import make
from boomerang_core.errors import SettingsError
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import StudentKind
from tests.core.conftest import (
    tiny_design,
    tiny_recipe,
    tiny_student,
    tiny_teacher,
    tiny_tokenizer,
    write_tiny_family,
)
from tests.core.pairs import KEPT, write_tiny_pair

POSITIONS = 64
MESSAGE = "a row of 65 tokens is too long: .* at most 64"


@pytest.fixture
def family(tmp_path: Path) -> Path:
    teacher = tiny_teacher("gpt2", True)
    student = tiny_student(teacher, StudentKind.LOWRANK)
    write_tiny_family(tmp_path / "tiny", teacher, student, tiny_design(StudentKind.LOWRANK))
    (tmp_path / "text").write_text("w4 w5 " * 400)
    return tmp_path / "tiny"


def test_learned_positions_end(tmp_path: Path) -> None:
    model = tiny_teacher("gpt2", True)
    ids = torch.zeros(1, POSITIONS, dtype=torch.int64)
    assert LayerRunner(model, POSITIONS).embed(ids).shape[1] == POSITIONS
    with pytest.raises(SettingsError, match=MESSAGE):
        LayerRunner(model, POSITIONS + 1)
    LayerRunner(tiny_teacher("llama", True), POSITIONS + 1)  # computes its positions


def test_make(tmp_path: Path) -> None:
    tiny_teacher("gpt2", True).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    recipe = replace(tiny_recipe(str(tmp_path / "teacher")), row_length=POSITIONS + 1)
    with pytest.raises(SettingsError, match=MESSAGE):
        make(recipe, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "command",
    [["evaluate"], ["compare", "--out", "comparison.json"], ["search", "ladder", "--work", "work"]],
)
def test_commands(command: list[str], family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(family.parent)
    rows = ["--text", "text", "--tokens", "128", "--row-length", str(POSITIONS + 1)]
    result = CliRunner().invoke(cli.app, [*command, str(family), *rows])
    assert result.exit_code == 2, result.output
    assert f"error: a row of {POSITIONS + 1} tokens is too long" in result.output


def test_import_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_pair(tmp_path, "gpt2")
    (tmp_path / "text").write_text("w4 w5 " * 400)
    monkeypatch.chdir(tmp_path)
    pair = ["--teacher", "teacher", "--student", "student", "--kept", ",".join(map(str, KEPT))]
    rows = ["--text", "text", "--tokens", "128", "--row-length", str(POSITIONS + 1)]
    result = CliRunner().invoke(cli.app, ["import", *pair, *rows, "--out", "out"])
    assert result.exit_code == 2, result.output
    assert f"error: a row of {POSITIONS + 1} tokens is too long" in result.output
    assert not Path("out").exists()
