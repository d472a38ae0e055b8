"""Students: how they start, are merged and saved, and which are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.assemble import student_model
from boomerang_core.architectures import Maps
from boomerang_core.assemble import assemble
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import CheckpointError, SettingsError
from boomerang_core.initial_student import initial_student
from boomerang_core.route import build_route
from boomerang_core.student import load_student, merged_layer, save_student, student_from_model
from tests.core.cases import FULL, LOWRANK, Case, llama
from tests.core.conftest import BLOCKS, CONFIGS, LAYERS, RANK, tiny_design, tiny_teacher

__all__ = ["llama"]  # a fixture


class TestStudent:
    def test_starts_as_copies_of_the_kept_layers(self) -> None:
        teacher = tiny_teacher("llama", True)
        student = initial_student(teacher, BLOCKS, FULL, RANK, own_embeddings=True)
        ours = student.tensors["model.layers.0.mlp.up_proj.weight"]
        theirs = teacher.model.layers[1].mlp.up_proj.weight
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert "lm_head.weight" not in student.tensors  # tied: one matrix
        assert not student.layer(1)  # shared

    @pytest.mark.parametrize("name", CONFIGS)
    def test_a_new_lowrank_student_is_naive_pruning_bit_for_bit(self, name: str) -> None:
        teacher = tiny_teacher(name, True)
        start = initial_student(teacher, BLOCKS, LOWRANK, RANK, False)
        copies = initial_student(teacher, BLOCKS, FULL, RANK, False)
        route = build_route(tiny_design(LOWRANK), 0)
        ids = torch.arange(4, 16)[None]
        one, other = (assemble(teacher, s, route)(ids).logits for s in (start, copies))
        assert torch.equal(one, other)
        assert start.num_params < copies.num_params

    @pytest.mark.parametrize("name", CONFIGS)
    def test_deltas_of_the_mlp_alone(self, name: str) -> None:
        teacher = tiny_teacher(name, True)
        some, every = (
            initial_student(teacher, BLOCKS, LOWRANK, RANK, False, maps)
            for maps in (Maps.MLP, Maps.ALL)
        )
        some.check(teacher)
        left_out = every.tensors.keys() - some.tensors.keys()
        assert left_out
        assert all("lora" in name and ".mlp." not in name for name in left_out)
        assert all(".mlp." in name for name in some.tensors if "lora" in name)

    def test_the_rank_is_at_most_the_maps_own(self) -> None:
        start = initial_student(tiny_teacher("llama", True), BLOCKS, LOWRANK, 1000, False)
        assert start.tensors["model.layers.0.self_attn.k_proj.lora_A"].shape == (16, 32)

    def test_merging_changes_only_what_has_deltas(self) -> None:
        llama = Case("llama", True, "lowrank")
        base = dict(llama.teacher.model.layers[1].state_dict())
        own = llama.student.layer(0)
        del own["mlp.up_proj.lora_A"], own["mlp.up_proj.lora_B"]
        merged = merged_layer(base, own, llama.row)
        assert merged["mlp.up_proj.weight"] is base["mlp.up_proj.weight"]
        delta = own["mlp.down_proj.lora_B"] @ own["mlp.down_proj.lora_A"]
        torch.testing.assert_close(
            merged["mlp.down_proj.weight"], base["mlp.down_proj.weight"] + delta
        )

    def test_round_trip(self, llama: Case, tmp_path: Path) -> None:
        save_student(llama.student, tmp_path)
        loaded = load_student(tmp_path)
        assert (loaded.kind, loaded.block_map) == (llama.student.kind, BLOCKS)
        assert loaded.own_embeddings == llama.student.own_embeddings
        assert loaded.tensors.keys() == llama.student.tensors.keys()
        assert all(torch.equal(loaded.tensors[n], t) for n, t in llama.student.tensors.items())

    def test_a_released_student_is_taken_as_it_is(self) -> None:
        case = Case("gpt_neox", False, "full-own")
        released = student_model(case.teacher, case.student)
        taken = student_from_model(released, case.teacher, BLOCKS)
        assert taken.tensors.keys() == case.student.tensors.keys()
        assert all(torch.equal(taken.tensors[n], t) for n, t in case.student.tensors.items())
        with pytest.raises(CheckpointError, match="student has 4 layers"):
            student_from_model(released, case.teacher, BlockMap.every_second_and_last(LAYERS - 2))


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), "lacks model.layers.0.mlp.up"),
            (lambda t: t.update({"x": torch.zeros(1)}), "should not have: x"),
            (
                lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
                r"model.norm.weight has shape \(3,\), the teacher needs \(32,\)",
            ),
        ],
    )
    def test_full_students_that_do_not_fit(self, change: Any, message: str) -> None:
        case = Case("llama", True, "full-own")
        tensors = dict(case.student.tensors)
        change(tensors)
        with pytest.raises(CheckpointError, match=message):
            replace(case.student, tensors=tensors).check(case.teacher)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t, n: t.pop(n + "lora_A"), "only one of"),
            (lambda t, n: t.update({n + "lora_A": torch.zeros(2, 32)}), "differ in rank"),
            (lambda t, n: t.update({n + "lora_A": torch.zeros(3, 31)}), r"needs \(rank, 32\)"),
            (lambda t, n: t.update({n + "weight": torch.zeros(48, 32)}), "both"),
            (lambda t, n: t.update({n + "bias": torch.zeros(48)}), "should not have"),
            (lambda t, n: t.update({"model.norm.weight": torch.zeros(32)}), "should not have"),
        ],
    )
    def test_lowrank_students_that_do_not_fit(self, change: Any, message: str) -> None:
        case = Case("llama", True, "lowrank")
        tensors = dict(case.student.tensors)
        change(tensors, "model.layers.0.mlp.up_proj.")
        with pytest.raises(CheckpointError, match=message):
            replace(case.student, tensors=tensors).check(case.teacher)

    def test_teachers_that_do_not_fit(self) -> None:
        student = Case("llama", True, "lowrank").student
        with pytest.raises(CheckpointError, match="a LlamaForCausalLM, the teacher a Qwen3"):
            student.check(tiny_teacher("qwen3", True))
        with pytest.raises(CheckpointError, match="teacher has 6 layers, the block map needs 4"):
            initial_student(
                tiny_teacher("llama", True), BlockMap.every_second_and_last(4), FULL, 1, False
            )

    def test_contradictions(self) -> None:
        teacher = tiny_teacher("llama", True)
        with pytest.raises(SettingsError, match="teacher's embeddings"):
            initial_student(teacher, BLOCKS, LOWRANK, 1, own_embeddings=True)
        with pytest.raises(SettingsError, match="rank must be at least 1"):
            initial_student(teacher, BLOCKS, LOWRANK, 0, False)

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda f: (f / "student.json").unlink(), "lacks .*student.json"),
            (lambda f: (f / "student.json").write_text("[]"), "malformed"),
            (lambda f: (f / "student.json").write_text('{"format": 9}'), "must have format 1"),
            (lambda f: (f / "model.safetensors").write_bytes(b"not tensors"), "cannot read"),
            (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
        ],
    )
    def test_folders_that_are_no_student(self, write: Any, message: str, tmp_path: Path) -> None:
        save_student(Case("llama", True, "lowrank").student, tmp_path)
        write(tmp_path)
        with pytest.raises(CheckpointError, match=message):
            load_student(tmp_path)
