"""Sizes exported as plain checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from boomerang_core.assemble import export
from boomerang_core.errors import CheckpointError, WriteError
from tests.core.cases import SIZES, Case, generate, llama
from tests.core.conftest import CONFIGS, write_tiny_family

__all__ = ["llama"]  # a fixture


class TestExport:
    @pytest.mark.parametrize("kind", ["full-own", "lowrank"])
    @pytest.mark.parametrize("name", CONFIGS)
    def test_round_trip(self, name: str, kind: str, tmp_path: Path) -> None:
        case = Case(name, True, kind)
        family = write_tiny_family(tmp_path / "family", case.teacher, case.student, case.design)
        for size in SIZES:
            out = tmp_path / f"out-{size}"
            export(family, size, out)
            model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]
            assert torch.equal(case.logits(model), case.logits(case.assembled(size, merged=True)))
            route = case.route(size)
            assert model.config.tie_word_embeddings == (route.embedding is route.head)
            assert model.config.num_hidden_layers == len(route.layers)
            assert torch.equal(
                generate(model, case.ids, True),
                generate(case.assembled(size, True), case.ids, True),
            )

    def test_carries_what_belongs_to_it(self, llama: Case, tmp_path: Path) -> None:
        llama.teacher.generation_config.temperature = 0.5
        llama.teacher.generation_config.do_sample = True
        family = write_tiny_family(tmp_path / "f", llama.teacher, llama.student, llama.design, True)
        out = tmp_path / "deep" / "out"
        export(family, 1, out, torch.bfloat16)
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        assert AutoTokenizer.from_pretrained(out).chat_template
        model = AutoModelForCausalLM.from_pretrained(out)
        assert model.generation_config.temperature == 0.5
        assert model.dtype is torch.bfloat16
        origin = json.loads((out / "boomerang.json").read_text())
        assert origin["family"] == "tiny"
        assert origin["size"] == family.rows[1].id
        assert len(origin["layers"]) == family.rows[1].layers
        # what stands alone has the parameters and bytes that the table promised
        assert sum(p.numel() for p in model.parameters()) == family.rows[1].params

    def test_never_writes_over_anything(self, llama: Case, tmp_path: Path) -> None:
        family = write_tiny_family(tmp_path / "f", llama.teacher, llama.student, llama.design)
        out = tmp_path / "out"
        out.mkdir()
        export(family, 0, out)  # empty: fine
        before = sorted(out.iterdir())
        with pytest.raises(CheckpointError, match="not an empty folder"):
            export(family, 0, out)
        assert sorted(out.iterdir()) == before

    def test_a_failed_export_leaves_nothing(
        self, llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        family = write_tiny_family(tmp_path / "f", llama.teacher, llama.student, llama.design)

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("boomerang_core.assemble.copy_companions", fail)
        with pytest.raises(WriteError, match=r"cannot write .*out: No space left"):
            export(family, 0, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"f", "f-teacher"}
