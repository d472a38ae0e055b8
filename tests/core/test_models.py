"""Every architecture row, on tiny random models: exact properties of every size."""

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench.assemble import naive_build, new_bytes, student_model
from boomerang_core.architectures import (
    ARCHITECTURES,
    architecture_of,
    model_shape,
    shape_of,
)
from boomerang_core.assemble import assemble, export
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import ArchitectureError, CheckpointError, SettingsError
from boomerang_core.footprint import route_params, teacher_params
from boomerang_core.route import Route, StudentKind, build_route
from boomerang_core.student import (
    Student,
    initial_student,
    load_student,
    merge,
    save_student,
    student_from_model,
)
from tests.core.conftest import (
    BLOCKS,
    CONFIGS,
    LADDER,
    LAYERS,
    RANK,
    VOCABULARY,
    tiny_design,
    tiny_student,
    tiny_teacher,
    write_tiny_family,
)
from tests.imports import heavy_after

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
SIZES = range(LADDER.num_sizes)
KINDS = {"full-own": (FULL, True), "full": (FULL, False), "lowrank": (LOWRANK, False)}
CASES = [
    (name, tied, kind)
    for name in CONFIGS
    for tied, kind in ((True, "full-own"), (True, "lowrank"), (False, "full-own"), (False, "full"))
]


class Case:
    """A teacher, a student, and the routes of all sizes."""

    def __init__(self, name: str, tied: bool, kind: str) -> None:
        self.teacher = tiny_teacher(name, tied)
        self.student = tiny_student(self.teacher, *KINDS[kind])
        self.design = tiny_design(*KINDS[kind])
        self.row = architecture_of(self.teacher.config)
        self.ids = torch.randint(4, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(2))

    def route(self, size: int) -> Route:
        return build_route(self.design, size)

    def assembled(self, size: int, merged: bool = False) -> Any:
        return assemble(self.teacher, self.student, self.route(size), merged)

    def logits(self, model: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(self.ids).logits
        return logits

    def equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Bit for bit, but for the order of sums in W x + B A x and (W + B A) x."""
        if self.student.kind is LOWRANK:
            return torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        return torch.equal(one, other)


@pytest.fixture(scope="module", params=CASES, ids=["-".join(map(str, case)) for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    """Read only: the tests of a row share it."""
    return Case(*request.param)


@pytest.fixture(params=["full-own", "lowrank"])
def llama(request: pytest.FixtureRequest) -> Case:
    return Case("llama", True, request.param)


def addresses(parameters: Iterable[torch.Tensor]) -> set[int]:
    return {parameter.data_ptr() for parameter in parameters}


def generate(model: Any, ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        use_cache=use_cache,
    )
    return tokens


class TestAssemble:
    def test_the_full_size_is_the_teacher_bit_for_bit(self, case: Case) -> None:
        whole = case.assembled(LADDER.teacher_size)
        assert torch.equal(case.logits(whole), case.logits(case.teacher))
        assert whole.state_dict().keys() == case.teacher.state_dict().keys()

    def test_every_size_is_the_naive_construction(self, case: Case) -> None:
        plain = student_model(case.teacher, case.student)
        assert case.equal(case.logits(case.assembled(0)), case.logits(plain))
        expected = [case.logits(naive_build(case.teacher, plain, case.route(s))) for s in SIZES]
        for size in SIZES:
            assert case.equal(case.logits(case.assembled(size)), expected[size]), size
            assert torch.equal(case.logits(case.assembled(size, merged=True)), expected[size]), size
        for smaller, larger in pairwise(expected):
            assert not torch.allclose(smaller, larger, atol=1e-2)  # or the above shows nothing

    def test_every_tensor_is_the_teachers_or_the_students(self, case: Case) -> None:
        teacher = addresses([*case.teacher.parameters(), *case.teacher.buffers()])
        student = addresses(case.student.tensors.values())
        for size in SIZES:
            model = case.assembled(size)
            assert addresses([*model.parameters(), *model.buffers()]) <= teacher | student
            assert new_bytes(model, case.teacher, holder(case.student)) == 0
        assert addresses(case.assembled(LADDER.teacher_size).parameters()) <= teacher
        assert student <= addresses(case.assembled(0).parameters())

    def test_generates_with_a_cache_as_without(self, case: Case) -> None:
        models = [case.assembled(size) for size in SIZES]
        for model in models:  # all at once: none may have moved another's layers
            assert torch.equal(generate(model, case.ids, True), generate(model, case.ids, False))
        places = [m.layer_idx for m in case.teacher.modules() if hasattr(m, "layer_idx")]
        assert places == list(range(LAYERS))

    def test_the_config_says_what_is_there(self, case: Case) -> None:
        for size in SIZES:
            model, route = case.assembled(size), case.route(size)
            assert model.config.num_hidden_layers == len(route.layers)
            assert len(model.get_submodule(case.row.layers)) == len(route.layers)
            for name in case.row.per_layer:
                assert len(getattr(model.config, name)) == len(route.layers)
            shape = model_shape(case.teacher)
            extra = sum(
                p.numel() for n, p in model.named_parameters() if n.endswith(("lora_A", "lora_B"))
            )
            assert sum(p.numel() for p in model.parameters()) - extra == route_params(shape, route)
        assert case.teacher.config.num_hidden_layers == LAYERS


def holder(student: Student) -> torch.nn.Module:
    return torch.nn.ParameterList(
        torch.nn.Parameter(tensor, requires_grad=False) for tensor in student.tensors.values()
    )


class TestSharing:
    def test_an_edit_of_the_teacher_shows_in_every_size(self, llama: Case) -> None:
        before = [llama.logits(llama.assembled(size)) for size in SIZES]
        models = [llama.assembled(size) for size in SIZES]
        llama.teacher.model.layers[2].mlp.down_proj.weight.data.mul_(2)  # of the shared block
        for model, logits in zip(models, before, strict=True):
            assert not torch.allclose(llama.logits(model), logits)

    def test_parameters_to_train_stay_the_same_objects(self, llama: Case) -> None:
        trained = {n: torch.nn.Parameter(t) for n, t in llama.student.tensors.items()}
        model = assemble(llama.teacher, llama.student.with_tensors(trained), llama.route(0))
        model(llama.ids, labels=llama.ids).loss.backward()
        assert all(parameter.grad is not None for parameter in trained.values())

    def test_a_student_of_another_dtype_is_converted(self, llama: Case) -> None:
        like = torch.empty(0, dtype=torch.bfloat16)
        model = assemble(llama.teacher, llama.student.to(like), llama.route(0))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert torch.isfinite(llama.logits(model)).all()

    def test_hooks_of_the_teacher_stay_behind(self, llama: Case) -> None:
        llama.teacher(llama.ids, output_hidden_states=True)
        seen: list[Any] = []
        llama.teacher.model.layers[0].register_forward_hook(lambda *args: seen.append(args))
        model = llama.assembled(1)
        hidden = model(llama.ids, output_hidden_states=True).hidden_states
        assert len(hidden) == len(llama.route(1).layers) + 1
        assert not seen


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

    def test_the_rank_is_at_most_the_maps_own(self) -> None:
        start = initial_student(tiny_teacher("llama", True), BLOCKS, LOWRANK, 1000, False)
        assert start.tensors["model.layers.0.self_attn.k_proj.lora_A"].shape == (16, 32)

    def test_merging_changes_only_what_has_deltas(self) -> None:
        llama = Case("llama", True, "lowrank")
        base = dict(llama.teacher.model.layers[1].state_dict())
        own = llama.student.layer(0)
        del own["mlp.up_proj.lora_A"], own["mlp.up_proj.lora_B"]
        merged = merge(base, own, llama.row)
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


class TestArchitectures:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_a_row_names_every_parameter_of_a_layer(self, name: str) -> None:
        teacher = tiny_teacher(name, True)
        row = architecture_of(teacher.config)
        layer = teacher.get_submodule(row.layers)[0]
        named = {f"{m}.weight" for m in (*row.linear_maps, *row.norms)}
        assert {n for n, _ in layer.named_parameters() if n.endswith("weight")} == named
        shape = model_shape(teacher)
        assert shape_of(teacher.config) == shape
        assert teacher_params(shape) == sum(p.numel() for p in teacher.parameters())
        assert (shape.num_kv_heads, shape.head_dim) == (2 if row.name[0] in "LMQ" else 4, 8)

    def test_every_row_is_tested(self) -> None:
        assert {CONFIGS[n](True).model_type for n in CONFIGS} == {
            row.model_type for row in ARCHITECTURES.values()
        }

    def test_the_table_loads_no_torch(self) -> None:
        assert heavy_after("import boomerang_core.architectures") == []

    def test_what_has_no_row_is_refused(self) -> None:
        config = LlamaConfig(architectures=["LlamaForSequenceClassification"])
        with pytest.raises(ArchitectureError, match="no row for the architecture 'LlamaForSeq"):
            architecture_of(config)
        config = CONFIGS["gpt2"](True)
        config.scale_attn_by_inverse_layer_idx = True
        with pytest.raises(ArchitectureError, match="change with their place"):
            architecture_of(config)


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
            raise OSError("disk full")

        monkeypatch.setattr("boomerang_core.assemble.copy_companions", fail)
        with pytest.raises(OSError, match="disk full"):
            export(family, 0, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"f", "f-teacher"}
