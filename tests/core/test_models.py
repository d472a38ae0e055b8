"""Every architecture row, on tiny random models: exact properties of every size."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from bench.assemble import naive_build, new_bytes, student_model
from boomerang_core.architectures import ARCHITECTURES, architecture_of, model_shape, shape_of
from boomerang_core.assemble import assemble
from boomerang_core.errors import ArchitectureError
from boomerang_core.footprint import route_params, teacher_params
from boomerang_core.student import Student
from tests.core.cases import SIZES, Case, generate, llama
from tests.core.conftest import CONFIGS, LADDER, LAYERS, tiny_teacher
from tests.imports import heavy_after

__all__ = ["llama"]  # a fixture

CASES = [
    (name, tied, kind)
    for name in CONFIGS
    for tied, kind in ((True, "full-own"), (True, "lowrank"), (False, "full-own"), (False, "full"))
]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(map(str, case)) for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    """Read only: the tests of a row share it."""
    return Case(*request.param)


def addresses(parameters: Iterable[torch.Tensor]) -> set[int]:
    return {parameter.data_ptr() for parameter in parameters}


def holder(student: Student) -> torch.nn.Module:
    return torch.nn.ParameterList(
        torch.nn.Parameter(tensor, requires_grad=False) for tensor in student.tensors.values()
    )


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
