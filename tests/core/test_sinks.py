"""Attention sinks: which tokens they are, what they count, and that a block's fit sees them."""

from dataclasses import replace

import pytest
import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.distill import sinks
from boomerang_core.distill.blockwise import BlockTrainer, Streams
from boomerang_core.distill.closed_form import Moments
from boomerang_core.distill.objective import relative_error
from boomerang_core.distill.sinks import MASSIVE, attention_sinks, token_weights
from boomerang_core.errors import SettingsError
from boomerang_core.initial_student import initial_student
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import StudentKind
from tests.core.conftest import ROW_LENGTH, VOCABULARY, tiny_recipe, tiny_teacher


def states_with(*massive: tuple[int, int], rows: int = 2, length: int = 8) -> torch.Tensor:
    states = torch.nn.functional.normalize(torch.randn(rows, length, 16), dim=-1)
    for row, token in massive:
        states[row, token] *= 2 * MASSIVE
    return states


class TestWhichTokens:
    def test_those_with_a_massive_state_after_any_layer(self) -> None:
        found = attention_sinks([states_with((0, 0)), states_with((0, 0), (1, 5)), states_with()])
        assert found.nonzero().tolist() == [[0, 0], [1, 5]]

    def test_massive_beside_its_own_row_only(self) -> None:
        states = states_with()
        states[1] *= 3 * MASSIVE  # every token of a row
        assert not attention_sinks([states]).any()


class TestWhatTheyCount:
    def test_a_rows_sinks_have_their_share_together(self) -> None:
        found = torch.zeros(3, 8, dtype=torch.bool)
        found[0, 0] = found[1, 2] = found[1, 3] = True
        weights = token_weights(found, 0.4)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3))
        assert weights[0, 0].item() == pytest.approx(0.4)
        assert weights[1, 2:4].tolist() == pytest.approx([0.2, 0.2])
        assert weights[0, 1:].tolist() == pytest.approx([0.6 / 7] * 7)
        assert weights[2].tolist() == pytest.approx([1 / 8] * 8)

    def test_a_share_of_zero_counts_all_alike(self) -> None:
        found = torch.zeros(1, 8, dtype=torch.bool)
        found[0, 0] = True
        assert token_weights(found, 0.0).tolist() == [pytest.approx([1 / 8] * 8)]

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_a_share_that_is_none_is_refused(self, share: float) -> None:
        with pytest.raises(SettingsError, match="sinks must be at least 0 and below 1"):
            replace(tiny_recipe("none"), sinks=share)


class TestInBlocks:
    """The wiring, on a random model whose states only grow a little: massive is made to be less."""

    @pytest.fixture
    def runner(self, monkeypatch: pytest.MonkeyPatch) -> LayerRunner:
        monkeypatch.setattr(sinks, "MASSIVE", 1.1)
        return LayerRunner(tiny_teacher("llama", True), ROW_LENGTH)

    @pytest.fixture
    def rows(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(3, VOCABULARY, (10, ROW_LENGTH), generator=generator)

    def test_every_fourth_row_is_searched_and_the_others_count_alike(
        self, runner: LayerRunner, rows: torch.Tensor
    ) -> None:
        recipe = replace(tiny_recipe("none"), batch_rows=2)
        weights = Streams(runner, rows, recipe).weights_RL
        searched = {row for row in range(10) if weights[row].unique().numel() > 1}
        assert searched == {0, 4, 8}
        for row in searched:
            found = attention_sinks(list(runner.states(runner.embed(rows[row : row + 1]))))
            torch.testing.assert_close(weights[row], token_weights(found, recipe.sinks)[0])

    def test_a_share_of_zero_searches_nothing(
        self, runner: LayerRunner, rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(LayerRunner, "states", None)
        weights = Streams(runner, rows, replace(tiny_recipe("none"), sinks=0.0)).weights_RL
        assert weights.unique().tolist() == [pytest.approx(1 / ROW_LENGTH)]

    def test_a_block_misses_its_sinks_by_less_with_a_larger_share(
        self, runner: LayerRunner, rows: torch.Tensor
    ) -> None:
        block_map = BlockMap.from_layers([[0], [1, 2], [3], [4], [5]])
        initial = initial_student(
            tiny_teacher("llama", True), block_map, StudentKind.FULL, 4, False
        )
        block = block_map[1]

        def missed(share: float) -> float:
            recipe = replace(tiny_recipe("none"), kind="full", sinks=share, steps=0, ridge=1e-6)
            streams = Streams(runner, rows[:1], recipe)
            task = streams.task(block, student_stream=True)
            trainer = BlockTrainer(runner, block.kept, recipe)
            fit = trainer.fit(initial.layer(1), task, task, seed=0)
            sink = attention_sinks(list(runner.states(runner.embed(rows[:1]))))
            output = trainer.run(trainer.weights(fit.parameters), task.inputs)
            return float(relative_error(output, task.targets)[sink].mean())

        assert missed(0.95) < missed(0.0)


def test_the_closed_form_fits_a_sink_that_a_plain_mean_gives_up() -> None:
    """One token of 64 wants the opposite of what the rest want; the map's rank is one."""
    torch.manual_seed(0)
    inner, output = torch.randn(64, 4), torch.zeros(64, 6)
    target = inner @ torch.randn(4, 1) @ torch.randn(1, 6)
    target[0] = -100 * target[0]

    def error(share: float) -> float:
        sink = torch.zeros(1, 64, dtype=torch.bool)
        sink[0, 0] = True
        moments = Moments.zeros(inner, 6)
        moments.add(inner, output, target, token_weights(sink, share).flatten())
        missed = target[0] - moments.solve(1e-6, 1) @ inner[0]
        return float(missed.square().sum() / target[0].square().sum())

    assert error(0.9) < error(0.1) < error(0.0)
