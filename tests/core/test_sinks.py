"""Attention sinks: which tokens they are, what they count, and that a block's fit sees them."""

from dataclasses import replace

import pytest
import torch

from boomerang_core.distill.closed_form import Moments
from boomerang_core.distill.sinks import MASSIVE, attention_sinks, token_weights
from boomerang_core.errors import SettingsError
from tests.core.conftest import tiny_recipe


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
        sinks = torch.zeros(3, 8, dtype=torch.bool)
        sinks[0, 0] = sinks[1, 2] = sinks[1, 3] = True
        weights = token_weights(sinks, 0.4)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3))
        assert weights[0, 0].item() == pytest.approx(0.4)
        assert weights[1, 2:4].tolist() == pytest.approx([0.2, 0.2])
        assert weights[0, 1:].tolist() == pytest.approx([0.6 / 7] * 7)
        assert weights[2].tolist() == pytest.approx([1 / 8] * 8)

    def test_a_share_of_zero_counts_all_alike(self) -> None:
        sinks = torch.zeros(1, 8, dtype=torch.bool)
        sinks[0, 0] = True
        assert token_weights(sinks, 0.0).tolist() == [pytest.approx([1 / 8] * 8)]

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_a_share_that_is_none_is_refused(self, share: float) -> None:
        with pytest.raises(SettingsError, match="sinks must be at least 0 and below 1"):
            replace(tiny_recipe("none"), sinks=share)


def test_the_closed_form_fits_a_sink_that_a_plain_mean_gives_up() -> None:
    """One token of 64 wants the opposite of what the rest want; the map's rank is one."""
    torch.manual_seed(0)
    inner, output = torch.randn(64, 4), torch.zeros(64, 6)
    target = inner @ torch.randn(4, 1) @ torch.randn(1, 6)
    target[0] = -100 * target[0]

    def error(share: float) -> float:
        sinks = torch.zeros(1, 64, dtype=torch.bool)
        sinks[0, 0] = True
        moments = Moments.zeros(inner, 6)
        moments.add(inner, output, target, token_weights(sinks, share).flatten())
        missed = target[0] - moments.solve(1e-6, 1) @ inner[0]
        return float(missed.square().sum() / target[0].square().sum())

    assert error(0.9) < error(0.1) < error(0.0)
