"""The teacher of a run: its version, and the text that it writes."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.distill import sampling
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.sampling import in_bfloat16
from tests.core.conftest import student_bytes, tiny_teacher


class TestTheTeacher:
    def test_a_hub_id_is_pinned(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = "0123456789abcdef0123456789abcdef01234567"
        (tmp_path / commit).symlink_to(recipe.teacher)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: tmp_path / commit)
        hub = replace(recipe, teacher="lab/teacher", steps=0)
        family = make(hub, tmp_path / "out", tmp_path / "work")
        assert (family.teacher.location, family.teacher.revision) == ("lab/teacher", commit)
        assert Recipe.read(family.root / "recipe.json").teacher == f"lab/teacher@{commit}"

    def test_another_one_in_its_place_makes_another_family(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        teacher = tmp_path / "teacher"
        shutil.copytree(recipe.teacher, teacher)
        chosen = replace(recipe, teacher=str(teacher), steps=0)
        first = make(chosen, tmp_path / "first", tmp_path / "work")
        stages = set((tmp_path / "work").iterdir())
        make(chosen, tmp_path / "again", tmp_path / "work")
        assert set((tmp_path / "work").iterdir()) == stages
        model = tiny_teacher("llama", True)
        for parameter in model.parameters():
            parameter *= 1.5
        model.save_pretrained(teacher)
        other = make(chosen, tmp_path / "other", tmp_path / "work")
        made_anew = set((tmp_path / "work").iterdir()) - stages
        assert {path.name.partition("-")[0] for path in made_anew} == {"text", "blocks"}
        assert student_bytes(other) != student_bytes(first)
        versions = {family.provenance["teacher_version"] for family in (first, other)}
        assert len(versions) == 2

    def test_text_that_it_was_writing_is_not_lost(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = replace(recipe, sample_rows=4, steps=0)
        plain, asked = sampling._generate, []

        def generate(*args: Any) -> list[torch.Tensor]:
            asked.append(args)
            if len(asked) == stopped:
                raise KeyboardInterrupt
            return plain(*args)

        monkeypatch.setattr(sampling, "_generate", generate)
        stopped = 0
        make(chosen, tmp_path / "whole", tmp_path / "other")
        batches = len(asked)
        stopped = batches + 3
        with pytest.raises(KeyboardInterrupt):
            make(chosen, tmp_path / "out", tmp_path / "work")
        make(chosen, tmp_path / "out", tmp_path / "work")
        assert len(asked) == batches + 3 + (batches - 2)
        one, other = (path.read_bytes() for path in tmp_path.glob("*/text-*/samples.safetensors"))
        assert one == other
        assert not list(tmp_path.glob("*/text-*/samples"))


def test_its_copy_in_bfloat16_is_never_two_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher("llama", True)
    expected = copy.deepcopy(teacher).to(torch.bfloat16)

    def copied(*_: Any) -> None:
        raise AssertionError("a parameter was copied as it is")

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", copied)
    found = in_bfloat16(teacher)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert found.lm_head.weight is found.model.embed_tokens.weight
    ids_BL = torch.arange(8)[None]
    assert found.dtype is torch.bfloat16
    assert torch.equal(found(ids_BL).logits, expected(ids_BL).logits)
