"""What `make` refuses before its first stage."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from boomerang_core.devices import usable_device
from boomerang_core.distill import pipeline
from boomerang_core.distill.objective import Objective
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.recipe import Recipe
from boomerang_core.errors import (
    BlockMapError,
    DataError,
    FamilyError,
    LadderError,
    SettingsError,
    SizeError,
    WriteError,
)
from boomerang_core.folders import held_folder
from boomerang_core.sizes import format_bytes
from tests.core.conftest import tiny_teacher, tiny_tokenizer


class TestBeforeTheFirstStage:
    """What the user can mend shows before anything is made."""

    @pytest.fixture(autouse=True)
    def nothing_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def made(*_: Any) -> None:
            raise AssertionError("a stage was begun")

        monkeypatch.setattr(pipeline, "prepared_rows", made)

    @pytest.mark.parametrize(
        ("text", "message"), [(None, "cannot read evaluation text"), ("w4 w5", "has 2 tokens")]
    )
    def test_a_text_to_measure_on(
        self, text: str | None, message: str, recipe: Recipe, tmp_path: Path
    ) -> None:
        if text is not None:
            (tmp_path / "text").write_text(text)
        with pytest.raises(DataError, match=message):
            make(recipe, tmp_path / "out", tmp_path / "work", tmp_path / "text")

    @pytest.mark.parametrize("name", ["out", "work"])
    def test_a_folder_that_is_a_file(self, name: str, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / name).touch()
        with pytest.raises(WriteError, match=f"cannot write into .*{name}"):
            make(recipe, tmp_path / "out", tmp_path / "work")

    @pytest.mark.parametrize("name", ["notes.txt", "photos/me.jpg", "family.json"])
    def test_an_out_that_is_in_use(self, name: str, recipe: Recipe, tmp_path: Path) -> None:
        """All of it would be listed as the family's, and published."""
        (tmp_path / "out" / name).parent.mkdir(parents=True)
        (tmp_path / "out" / name).write_text("{}")
        with pytest.raises(FamilyError, match=f"out holds {name}, which is no family's"):
            make(recipe, tmp_path / "out", tmp_path / "out.work")
        assert (tmp_path / "out" / name).read_text() == "{}"

    @pytest.mark.parametrize("work", ["out", "out/work"])
    def test_a_work_folder_in_the_familys(self, work: str, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=f"{work} lies in .*out"):
            make(recipe, tmp_path / "out", tmp_path / work)

    def test_a_work_folder_in_which_another_works(self, recipe: Recipe, tmp_path: Path) -> None:
        message = "another process works in .*work: wait"
        with held_folder(tmp_path / "work"), pytest.raises(WriteError, match=message):
            make(recipe, tmp_path / "out", tmp_path / "work")

    @pytest.mark.parametrize("work", ["out.work", "out/.work"])
    def test_but_not_one_that_no_family_lists(
        self, work: str, recipe: Recipe, tmp_path: Path
    ) -> None:
        (tmp_path / "out" / ".work").mkdir(parents=True)
        (tmp_path / "out" / ".work" / "state").touch()
        with pytest.raises(AssertionError, match="a stage was begun"):
            make(recipe, tmp_path / "out", tmp_path / work)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            # a step that changes one layer for another of as many parameters
            (
                {"layout": "[[0],[1],[2,3,4,5]]", "ladder": "[[0],[1],[2]]", "kind": "full"},
                SizeError,
            ),
            ({"layout": "[[0,1],[2,3]]"}, BlockMapError),
            ({"ladder": "[[0],[1]]"}, LadderError),
        ],
    )
    def test_sizes(
        self, change: dict[str, Any], error: type[Exception], recipe: Recipe, tmp_path: Path
    ) -> None:
        chosen = replace(recipe, shared=(), **change)
        with pytest.raises(error):
            make(chosen, tmp_path / "out", tmp_path / "work")


def test_a_head_that_nothing_would_train(recipe: Recipe, tmp_path: Path) -> None:
    tiny_teacher("llama", False).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    alignment = Objective(kl=0, aligned_by="cosine")
    stage = replace(recipe.end_to_end, tokens=64, objective=alignment)
    tied = replace(recipe, kind="full", own_embeddings=True, start="random", end_to_end=stage)
    untied = replace(tied, teacher=str(tmp_path / "teacher"))
    with pytest.raises(SettingsError, match="alignment alone trains no head"):
        make(untied, tmp_path / "out", tmp_path / "work")
    assert make(tied, tmp_path / "out", tmp_path / "work")


def test_a_run_that_kept_nothing_leaves_no_folders(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("w4 w5")
    short = replace(recipe, text=(str(tmp_path / "text"),), text_tokens=9, sample_tokens=0)
    (tmp_path / "work" / "mine").mkdir(parents=True)  # what is not a stage stays
    for work in ("work", "new"):
        with pytest.raises(DataError, match="give more text, or a smaller --row-length"):
            make(short, tmp_path / "out", tmp_path / work)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "out", "text", "work"]


def test_a_teacher_too_large_for_a_gpu_is_told_before_it_is_loaded(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(total_memory=100_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(pipeline, "frozen_teacher", lambda *_: pytest.fail("it was loaded"))
    params = sum(parameter.numel() for parameter in tiny_teacher("llama", True).parameters())
    message = f"the teacher in float32 takes {format_bytes(4 * params)}, and cuda has 0.1MiB"
    with pytest.raises(SettingsError, match=message):
        pipeline._load(recipe, torch.device("cuda"))


def test_a_device_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(SettingsError, match="cannot use device 'abacus'"):
        usable_device("abacus")
