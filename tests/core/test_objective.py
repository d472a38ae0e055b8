"""The end-to-end objective: its terms and their gradients against plain computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from boomerang_core.distill.objective import (
    HeadInput,
    HeadTerms,
    Objective,
    distance,
    relative_error,
)
from boomerang_core.errors import SettingsError


class TestObjective:
    @pytest.mark.parametrize("weights", [(1.0, 0.1), (0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_head_terms_and_their_gradients_equal_a_plain_computation(
        self, temperature: float, weights: tuple[float, float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("boomerang_core.distill.objective.HEAD_TOKENS", 3)
        torch.manual_seed(0)
        head, model, teacher = (torch.randn(*shape) for shape in ((9, 5), (8, 5), (8, 5)))
        next_T = torch.randint(9, (8,))
        weight, hidden = torch.nn.Parameter(head), model.requires_grad_()
        objective = Objective(*weights, temperature=temperature)
        loss, cross_entropy, kl = HeadTerms(objective)(
            HeadInput(lambda x: x @ weight.T, hidden, (weight,)),
            HeadInput(lambda x: x @ head.T, teacher),
            next_T,
        )
        found = torch.autograd.grad(3 * loss, [hidden, weight])

        logits = hidden @ weight.T
        probs = ((teacher @ head.T) / temperature).softmax(-1)
        ratios = probs / (logits / temperature).softmax(-1)
        plain_kl = (probs * ratios.log()).sum(-1).mean()
        plain_cross_entropy = functional.cross_entropy(logits, next_T)
        plain = weights[0] * plain_cross_entropy + weights[1] * temperature**2 * plain_kl
        expected = torch.autograd.grad(3 * plain, [hidden, weight])
        torch.testing.assert_close(
            [loss, cross_entropy, kl, *found], [plain, plain_cross_entropy, plain_kl, *expected]
        )

    def test_a_zero_target_counts_as_met(self) -> None:
        one, two = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
        two[0, 1] = 0
        assert relative_error(one, two)[0, 1] == 0
        assert distance(one, two, "mse") < 100

    def test_distances_equal_a_plain_computation(self) -> None:
        one, two = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        cosines = (one * two).sum(-1) / (one.norm(dim=-1) * two.norm(dim=-1))
        errors = ((one - two) ** 2).sum(-1) / (two**2).sum(-1)
        assert distance(one, two, "cosine").item() == pytest.approx(1 - cosines.mean().item())
        assert distance(one, two, "mse").item() == pytest.approx(errors.mean().item())

    @pytest.mark.parametrize(
        "bad", [{"kl": -1.0}, {"kl": 0.0, "alignment": 0.0}, {"aligned_by": "l1"}]
    )
    def test_refuses_what_has_no_meaning(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            Objective(**bad)
