"""One block of a tiny random Llama: closed form, gradient steps, low rank, the stream of layers."""

from dataclasses import replace

import pytest
import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.distill.blockwise import BlockTrainer, Regression
from boomerang_core.distill.closed_form import Moments, fit_down_map
from boomerang_core.errors import SettingsError
from boomerang_core.initial_student import initial_student
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.lowrank import add_delta, balanced_factors, dense_weights, reduce_rank
from boomerang_core.route import StudentKind
from tests.core.conftest import ROW_LENGTH, VOCABULARY, tiny_recipe, tiny_teacher


class TestClosedForm:
    def test_finds_a_change_of_the_down_map_that_explains_everything(self) -> None:
        runner = LayerRunner(tiny_teacher("llama", True), ROW_LENGTH)
        layer = runner.layers[2]
        delta = torch.randn(32, 48) / 8
        moved = {"mlp.down_proj.weight": layer.mlp.down_proj.weight + delta}
        inputs = torch.randn(16, ROW_LENGTH, 32)
        targets = runner.run(layer, 2, inputs, moved)
        found = fit_down_map(
            lambda hidden: runner.run(layer, 2, hidden),
            layer.mlp.down_proj,
            [(inputs, targets, torch.ones(16, ROW_LENGTH))],
            ridge=1e-9,
            rank=None,
        )
        torch.testing.assert_close(found, delta, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("kind", ["full", "lowrank"])
    def test_every_stage_lowers_the_block_error(self, kind: str) -> None:
        model = tiny_teacher("llama", True)
        runner = LayerRunner(model, ROW_LENGTH)
        hidden = runner.embed(torch.randint(3, VOCABULARY, (96, ROW_LENGTH)))
        target = runner.run(runner.layers[2], 2, runner.run(runner.layers[1], 1, hidden))
        block_map = BlockMap.from_layers([[0], [1, 2], [3], [4], [5]])
        student = initial_student(model, block_map, StudentKind(kind), 4, False)
        parameters = student.layer(1)
        alike = torch.full((96, ROW_LENGTH), 1 / ROW_LENGTH)
        task = Regression(hidden[:80], target[:80], alike[:80])
        heldout = Regression(hidden[80:], target[80:], alike[80:])
        recipe = replace(tiny_recipe("none"), kind=kind, steps=20, step_rows=16)
        fit = BlockTrainer(runner, 1, recipe).fit(parameters, task, heldout, 0)
        start, closed, trained = fit.errors
        assert trained < closed < start

    def test_too_small_a_ridge_for_so_few_tokens_is_said(self) -> None:
        inner = torch.ones(2, 24)
        moments = Moments.zeros(inner, 16)
        moments.add(inner, torch.zeros(2, 16), torch.ones(2, 16), torch.ones(2))
        with pytest.raises(SettingsError, match="a ridge of 1e-300 is too small"):
            moments.solve(1e-300, None)

    def test_reduced_rank_beats_truncating_the_free_solution(self) -> None:
        torch.manual_seed(1)
        inner = torch.randn(400, 24) @ torch.randn(24, 24)
        output = inner @ torch.randn(24, 16) + torch.randn(400, 16)
        moments = Moments.zeros(inner, 16)
        moments.gram += inner.T @ inner
        moments.cross += inner.T @ output
        free = moments.solve(1e-6, None)
        left, right = balanced_factors(free, 4)

        def error(change: torch.Tensor) -> float:
            return float((inner @ change.T - output).square().sum())

        reduced = moments.solve(1e-6, 4)
        assert torch.linalg.matrix_rank(reduced) == 4
        assert error(free) < error(reduced) < error(left @ right)

    def test_reduced_rank_of_full_rank_is_the_free_solution(self) -> None:
        solution, cross = torch.randn(8, 5), torch.randn(8, 5)
        torch.testing.assert_close(reduce_rank(solution, cross, 5), solution)


class TestKinds:
    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_delta_is_the_same_weight_for_both_kinds(self, transposed: bool) -> None:
        weight, delta = torch.randn(6, 9), torch.randn(6, 2) @ torch.randn(2, 9)
        stored = weight.T.contiguous() if transposed else weight
        base = {"down.weight": stored}
        lowrank = {"down.lora_A": torch.randn(2, 9), "down.lora_B": torch.zeros(6, 2)}
        full = dense_weights(base, add_delta(base, "down", delta, transposed), transposed)
        low = dense_weights(base, add_delta(lowrank, "down", delta, transposed), transposed)
        torch.testing.assert_close(full["down.weight"], low["down.weight"])

    def test_an_untouched_lowrank_layer_is_the_teachers(self) -> None:
        model = tiny_teacher("llama", True)
        block_map = BlockMap.from_layers([[0], [1, 2], [3], [4], [5]])
        student = initial_student(model, block_map, StudentKind.LOWRANK, 4, False)
        base = model.model.layers[1].state_dict()
        weights = dense_weights(base, student.layer(1), transposed=False)
        assert weights.keys() == base.keys()
        assert all(torch.equal(weights[name], base[name]) for name in weights)


class TestStream:
    def test_layers_run_one_by_one_are_the_model(self) -> None:
        model = tiny_teacher("llama", True)
        runner = LayerRunner(model, ROW_LENGTH)
        ids = torch.randint(0, VOCABULARY, (3, ROW_LENGTH))
        hidden = runner.embed(ids)
        for place, layer in enumerate(runner.layers):
            hidden = runner.run(layer, place, hidden)
        assert torch.equal(runner.head(hidden), model(ids).logits)
