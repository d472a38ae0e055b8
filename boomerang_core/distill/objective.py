"""The end-to-end objective: cross entropy, KL to the teacher, and aligned hidden states.

    loss = w_ce · CE + w_kl · τ² · KL(teacher‖model) + w_align / |A| · Σ_A d(model, teacher)

A is the set of hidden states behind a student layer, each beside the teacher's at the end of the
block that the layer stands for (arXiv 2510.05064, section 3; τ, weights and d as published:
``CE + 0.1 KL + 2.0 cosine``).

Shapes: B rows at a time, L tokens a row, T scored tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from boomerang_core.errors import SettingsError

Head = Callable[[torch.Tensor], torch.Tensor]
DISTANCES = ("cosine", "mse")
HEAD_TOKENS = 4096
"""Tokens whose logits exist at once: they are by far the largest tensors of a step."""


@dataclass(frozen=True)
class Objective:
    """The weight of each term in the loss; one of weight 0 is still reported.

    ``aligned_by`` is ``cosine`` (1 - cos, the paper's) or ``mse`` (squared error relative to the
    teacher's squared norm, which also sees the length of a state).
    """

    cross_entropy: float = 0.0
    kl: float = 1.0
    alignment: float = 2.0
    aligned_by: str = "mse"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.cross_entropy, self.kl, self.alignment)
        if min(weights) < 0 or max(weights) == 0:
            raise SettingsError("an objective needs weights of at least 0, one of them above")
        if self.temperature <= 0:
            raise SettingsError(f"the temperature must be above 0, got {self.temperature}")
        if self.aligned_by not in DISTANCES:
            raise SettingsError(f"aligned_by must be one of {DISTANCES}, got {self.aligned_by!r}")

    def total(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of ``cross_entropy``, ``kl`` and ``alignment``."""
        return (
            self.cross_entropy * terms["cross_entropy"]
            + self.kl * self.temperature**2 * terms["kl"]
            + self.alignment * terms["alignment"]
        )


def relative_error(output_BLD: torch.Tensor, target_BLD: torch.Tensor) -> torch.Tensor:
    """‖output - target‖² / ‖target‖² of every token (B, L).

    Relative, because a few tokens have states a thousand times larger than the rest.
    """
    difference_BL = (output_BLD - target_BLD).square().sum(-1)
    return difference_BL / target_BLD.square().sum(-1).clamp_min(1e-12)


def distance(output_BLD: torch.Tensor, target_BLD: torch.Tensor, by: str) -> torch.Tensor:
    """The mean over tokens of one pair of states, in float32."""
    output_BLD, target_BLD = output_BLD.float(), target_BLD.float()
    if by == "mse":
        return relative_error(output_BLD, target_BLD).mean()
    return 1 - functional.cosine_similarity(output_BLD, target_BLD, dim=-1).mean()


@dataclass(frozen=True)
class HeadInput:
    """What a model's head is given, and the head: hidden states (T, D) → logits (T, V)."""

    head: Head
    hidden: torch.Tensor


class HeadTerms:
    """Cross entropy with the next tokens and KL(teacher‖model), from hidden states.

    Logits are made and thrown away ``HEAD_TOKENS`` tokens at a time, and made again for the
    gradient, so that no two copies of a batch's logits are ever held.
    """

    def __init__(self, temperature: float, compiled: bool = False) -> None:
        self._temperature = temperature
        self._divergence = torch.compile(divergence, dynamic=False) if compiled else divergence

    def __call__(
        self, model: HeadInput, teacher: HeadInput, next_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means over T tokens."""
        sums = model.hidden.new_zeros(2, dtype=torch.float32)
        for start in range(0, len(next_T), HEAD_TOKENS):
            part = slice(start, start + HEAD_TOKENS)
            given = HeadInput(model.head, model.hidden[part])
            target = HeadInput(teacher.head, teacher.hidden[part])
            sums = sums + checkpoint(self._sums, given, target, next_T[part], use_reentrant=False)
        means = sums / len(next_T)
        return means[0], means[1]

    def _sums(self, model: HeadInput, teacher: HeadInput, next_T: torch.Tensor) -> torch.Tensor:
        logits_TV = model.head(model.hidden)
        with torch.no_grad():
            teacher_TV = teacher.head(teacher.hidden)
        return self._divergence(logits_TV, teacher_TV, next_T, self._temperature)


def divergence(
    logits_TV: torch.Tensor, teacher_TV: torch.Tensor, next_T: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Sums over tokens of cross entropy and of KL(teacher‖model) at a temperature (2,)."""
    log_probs_TV = logits_TV.float().log_softmax(-1)
    cross_entropy = functional.nll_loss(log_probs_TV, next_T, reduction="sum")
    if temperature != 1:
        log_probs_TV = (logits_TV.float() / temperature).log_softmax(-1)
    target_TV = (teacher_TV.float() / temperature).log_softmax(-1)
    kl = functional.kl_div(log_probs_TV, target_TV, reduction="sum", log_target=True)
    return torch.stack([cross_entropy, kl])
