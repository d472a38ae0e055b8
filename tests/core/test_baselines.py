"""ShortGPT and LaCo against plain computations on tiny teachers."""

import gc
import weakref
from typing import Any

import pytest
import torch

from boomerang_core.architectures import architecture_of, shallower
from boomerang_core.assemble import assemble
from boomerang_core.baselines.laco import (
    FinalSimilarity,
    LayerPlan,
    collapse,
    laco_plan,
    laco_student,
    merge,
    merged_maps,
    whole_plan,
)
from boomerang_core.baselines.ladders import laco_ladder, shortgpt_ladder
from boomerang_core.baselines.shortgpt import block_influence, shortgpt_route
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.planned import measure_ladder
from boomerang_core.ladder import Ladder
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign, Owner, StudentKind, build_route
from tests.core.conftest import (
    CONFIGS,
    LAYERS,
    ROW_LENGTH,
    VOCABULARY,
    tiny_teacher,
)

ARCHITECTURES = sorted(CONFIGS)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(1, VOCABULARY, (3, ROW_LENGTH), generator=generator)


class TestShortGPT:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_influence_equals_a_plain_computation(
        self, architecture: str, ids: torch.Tensor
    ) -> None:
        model = tiny_teacher(architecture, True)
        found = block_influence(LayerRunner(model, ROW_LENGTH), ids)
        row = architecture_of(model.config)
        leaving: list[torch.Tensor] = []  # the last of output_hidden_states is behind the norm
        model.get_submodule(row.norm).register_forward_pre_hook(lambda _, a: leaving.append(a[0]))
        states = [*model(ids, output_hidden_states=True).hidden_states[:-1], leaving[0]]
        for influence, x, y in zip(found, states[:-1], states[1:], strict=True):
            cosine = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            assert influence == pytest.approx(1 - float(cosine.mean()), abs=1e-5)

    def test_layers_go_in_the_order_of_their_influence(self) -> None:
        influence = [0.9, 0.2, 0.5, 0.1, 0.2, 0.8]
        kept = [[ref.index for ref in shortgpt_route(influence, n).layers] for n in range(6, 0, -1)]
        assert kept == [
            [0, 1, 2, 3, 4, 5],
            [0, 1, 2, 4, 5],
            [0, 2, 4, 5],
            [0, 2, 5],
            [0, 5],
            [0],
        ]
        assert {ref.owner for ref in shortgpt_route(influence, 3).layers} == {Owner.TEACHER}

    @pytest.mark.parametrize("depth", [0, 7])
    def test_a_depth_that_is_not_there_is_refused(self, depth: int) -> None:
        with pytest.raises(SettingsError, match="keeps 1 to 6 layers"):
            shortgpt_route([0.1] * 6, depth)

    def test_the_ladder_ends_at_the_teacher(self, ids: torch.Tensor) -> None:
        model = tiny_teacher("llama", True)
        ladder = shortgpt_ladder(model, [3, 4, 6], ids)
        assert [len(route.layers) for route in ladder.routes] == [3, 4, 6]
        qualities = measure_ladder(model, ladder, ids, "ShortGPT")
        assert qualities[-1].kl == pytest.approx(0, abs=1e-5)
        assert qualities[0].kl > 0.01


class TestLaCoMerge:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_equals_a_plain_sum_of_differences(self, architecture: str) -> None:
        model = tiny_teacher(architecture, True)
        runner = LayerRunner(model, ROW_LENGTH)
        first, second, third = (dict(runner.layers[i].named_parameters()) for i in (1, 2, 3))
        [_, merged, *_] = merge(whole_plan(LAYERS), 1, 2)
        maps = merged_maps(runner, merged)
        assert {name.rpartition(".")[0] for name in maps} == set(runner.architecture.linear_maps)
        for name, tensor in maps.items():
            plain = first[name] + (second[name] - first[name]) + (third[name] - first[name])
            torch.testing.assert_close(tensor, plain)

    def test_a_merge_of_merges_is_the_formula_again(self) -> None:
        runner = LayerRunner(tiny_teacher("llama", True), ROW_LENGTH)
        inner = merge(whole_plan(LAYERS), 2, 2)  # layers 2, 3 and 4
        outer = merge(inner, 1, 2)  # layer 1, that, and layer 5
        assert [(layer.start, layer.stop) for layer in outer] == [(0, 1), (1, 6)]
        parts = [merged_maps(runner, layer) for layer in inner[1:4]]
        for name, tensor in merged_maps(runner, outer[1]).items():
            torch.testing.assert_close(
                tensor, parts[1][name] + parts[2][name] - parts[0][name], rtol=1e-4, atol=1e-5
            )

    def test_a_merge_of_identical_layers_leaves_the_kept_one_unchanged(self) -> None:
        model = tiny_teacher("gpt2", True)
        runner = LayerRunner(model, ROW_LENGTH)
        for place in (2, 3):
            runner.layers[place].load_state_dict(runner.layers[1].state_dict())
        [_, merged, *_] = merge(whole_plan(LAYERS), 1, 2)
        for name, tensor in merged_maps(runner, merged).items():
            torch.testing.assert_close(tensor, runner.layers[1].get_parameter(name))

    def test_a_sum_is_rounded_once(self) -> None:
        """In bfloat16 every partial sum would be, where whole layers cancel."""
        model = tiny_teacher("llama", True)
        runner = LayerRunner(model.bfloat16(), ROW_LENGTH)
        [merged, *_] = merge(whole_plan(LAYERS), 0, 4)
        rounded = merged_maps(runner, merged)
        exact = merged_maps(LayerRunner(model.float(), ROW_LENGTH), merged)
        assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_the_student_runs_as_the_plain_model_of_merged_layers(
        self, architecture: str, ids: torch.Tensor
    ) -> None:
        model = tiny_teacher(architecture, False)
        runner = LayerRunner(model, ROW_LENGTH)
        plan = merge(merge(whole_plan(LAYERS), 3, 1), 0, 1)  # 0+1, 2, 3+4, 5
        student = laco_student(runner, plan)
        design = FamilyDesign(
            student.block_map, Ladder.last_to_first(student.block_map), StudentKind.FULL
        )
        found = assemble(model, student, build_route(design, 0))(ids).logits

        row = architecture_of(model.config)
        plain = type(model)(shallower(model.config, [0, 2, 3, 5])).eval()
        plain.load_state_dict(
            {n: t for n, t in model.state_dict().items() if not n.startswith(row.layers)},
            strict=False,
        )
        for place, layer in enumerate(plan):
            target = plain.get_submodule(row.layers)[place]
            target.load_state_dict(runner.layers[layer.start].state_dict())
            if layer.merged:  # θ_l + (θ_{l+1} - θ_l), the norms left alone
                following = runner.layers[layer.start + 1]
                for name in row.linear_maps:
                    source = following.get_submodule(name).state_dict()
                    target.get_submodule(name).load_state_dict(source)
        torch.testing.assert_close(found, plain(ids).logits, rtol=1e-4, atol=1e-4)


def trace(plan: LayerPlan) -> list[tuple[int, int]]:
    return [(layer.start, layer.stop) for layer in plan]


class TestLaCoAlgorithm:
    def test_slides_from_the_top_and_skips_what_is_too_different(self) -> None:
        tried: list[list[tuple[int, int]]] = []

        def similarity(plan: LayerPlan) -> float:
            tried.append(trace(plan))
            return 0.2 if len(tried) == 1 else 0.9  # the first merge is refused

        plan = collapse(
            whole_plan(8), 4, combined=3, interval=2, threshold=0.5, similarity=similarity
        )
        spans = [[s for s in attempt if s[1] - s[0] > 1] for attempt in tried]
        # layer 7 is left alone at first: the pointer starts at the last layer less C
        assert spans == [[(4, 7)], [(3, 6)], [(1, 6)]]
        assert plan is not None
        assert trace(plan) == tried[-1]

    def test_stops_at_the_depth_and_does_not_overshoot(self) -> None:
        for depth in range(2, 9):
            plan = collapse(whole_plan(8), depth, 3, 1, -1.0, lambda _: 0.0)
            assert plan is not None
            assert len(plan) == depth
            assert trace(plan)[0][0] == 0
            assert trace(plan)[-1][1] == 8

    def test_a_threshold_that_nothing_meets_collapses_nothing(self) -> None:
        assert collapse(whole_plan(8), 4, 2, 1, 0.9, lambda _: 0.9) is None

    def test_of_all_settings_the_most_similar_collapse_is_taken(self) -> None:
        def similarity(plan: LayerPlan) -> float:
            return 1 - max(layer.stop - layer.start for layer in plan) / 10

        plan = laco_plan(12, 7, similarity)  # pairs take C = 2 and I = 2
        assert len(plan) == 7
        assert max(stop - start for start, stop in trace(plan)) == 2

    @pytest.mark.parametrize("depth", [0, 1, 7])
    def test_a_depth_that_no_setting_reaches_is_refused(self, depth: int) -> None:
        with pytest.raises(SettingsError, match=f"does not collapse 6 layers to {depth}"):
            laco_plan(6, depth, lambda _: 0.5)

    def test_a_plan_is_measured_once(self, ids: torch.Tensor) -> None:
        similarity = FinalSimilarity(LayerRunner(tiny_teacher("llama", True), ROW_LENGTH), ids)
        plan = merge(whole_plan(LAYERS), 2, 1)
        before = similarity(plan)
        similarity._runner = None
        assert similarity(plan) == before

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_similarity_equals_a_plain_computation(
        self, architecture: str, ids: torch.Tensor
    ) -> None:
        model = tiny_teacher(architecture, True)
        runner = LayerRunner(model, ROW_LENGTH)
        similarity = FinalSimilarity(runner, ids)
        assert similarity(whole_plan(LAYERS)) == pytest.approx(1)
        plan = merge(whole_plan(LAYERS), 2, 2)
        student = laco_student(runner, plan)
        ladder = Ladder.last_to_first(student.block_map)
        route = build_route(FamilyDesign(student.block_map, ladder, StudentKind.FULL), 0)
        merged = assemble(model, student, route)
        with torch.no_grad():
            ours, theirs = (
                m(ids, output_hidden_states=True).hidden_states[-1] for m in (merged, model)
            )
        cosines = [
            float(a.flatten() @ b.flatten() / a.norm() / b.norm())
            for a, b in zip(ours, theirs, strict=True)
        ]
        assert similarity(plan) == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)


class TestLaCoLadder:
    def test_one_size_in_memory_at_a_time(
        self, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive: list[weakref.ref[Any]] = []
        most = 0

        def watched(runner: LayerRunner, plan: LayerPlan) -> Any:
            nonlocal most
            student = laco_student(runner, plan)
            alive.append(weakref.ref(student))
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            return student

        monkeypatch.setattr("boomerang_core.baselines.ladders.laco_student", watched)
        model = tiny_teacher("llama", True)
        ladder = laco_ladder(model, [3, 4, 5, 6], ids)
        measure_ladder(model, ladder, ids, "LaCo")
        assert len(alive) == 4
        assert [len(route.layers) for route in ladder.routes] == [3, 4, 5, 6]
        assert most == 1
        assert ladder.notes["sizes"][-1] == {"merged": [], "similarity": 1.0}
