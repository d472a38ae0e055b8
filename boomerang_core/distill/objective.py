"""The end-to-end objective: cross entropy, KL to the teacher, and aligned hidden states.

    loss = w_ce · CE + w_kl · τ² · KL(teacher‖model) + w_align / |A| · Σ_A d(model, teacher)

A is the set of hidden states behind a student layer, each beside the teacher's at the end of the
block that the layer stands for, and the embedding where it is the student's (arXiv 2510.05064,
section 3; τ, weights and d as published: `CE + 0.1 KL + 2.0 cosine`).

Shapes: B rows at a time, L tokens a row, T scored tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from boomerang_core.errors import SettingsError

DISTANCES = ("cosine", "mse")
HEAD_TOKENS = 4096
"""Tokens whose logits exist at once: they are by far the largest tensors of a step."""


@dataclass(frozen=True)
class Objective:
    """The weight of each term in the loss.

    A term of weight 0 is still reported, except cross entropy and KL where both are 0: then no
    logits are made.  `aligned_by` is `cosine` (1 - cos, the paper's) or `mse` (squared error
    relative to the teacher's squared norm, which also sees the length of a state).
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
            raise SettingsError(
                f"aligned_by must be {' or '.join(DISTANCES)}, got {self.aligned_by!r}"
            )

    @property
    def needs_head(self) -> bool:
        """Whether the loss depends on logits.

        Where it does not, final norm and head must have no gradient rather than one of zero,
        with which weight decay would shrink them.
        """
        return max(self.cross_entropy, self.kl) > 0

    @property
    def kl_weight(self) -> float:
        """The weight of the KL as it is reported, at the temperature: w_kl · τ²."""
        return self.kl * self.temperature**2


def relative_error(output_BLD: torch.Tensor, target_BLD: torch.Tensor) -> torch.Tensor:
    """‖output - target‖² / ‖target‖² of every token (B, L); 0 where the target is zero.

    Relative, because a few tokens have states a thousand times larger than the rest.  Zero is the
    embedding of a padding token.
    """
    difference_BL = (output_BLD - target_BLD).square().sum(-1)
    norm_BL = target_BLD.square().sum(-1)
    return torch.where(norm_BL > 0, difference_BL / norm_BL.clamp_min(1e-12), 0.0)


def distance(output_BLD: torch.Tensor, target_BLD: torch.Tensor, by: str) -> torch.Tensor:
    """The mean over tokens of one pair of states, in float32."""
    output_BLD, target_BLD = output_BLD.float(), target_BLD.float()
    if by == "mse":
        return relative_error(output_BLD, target_BLD).mean()
    return 1 - functional.cosine_similarity(output_BLD, target_BLD, dim=-1).mean()


@dataclass(frozen=True)
class HeadInput:
    """What a model's head is given, and the head: hidden states (T, D) → logits (T, V).

    `weights` are the parameters of the head that learn.
    """

    head: Callable[[torch.Tensor], torch.Tensor]
    hidden: torch.Tensor
    weights: tuple[nn.Parameter, ...] = ()


class HeadTerms:
    """Cross entropy with the next tokens and KL(teacher‖model), from hidden states.

    Logits are made, and their gradient sent back through the head, `HEAD_TOKENS` tokens at a
    time on the way forward.  So no batch's logits are ever held, and none are made twice.
    """

    def __init__(self, objective: Objective, compiled: bool = False) -> None:
        self._objective = objective
        self._divergence = torch.compile(divergence, dynamic=False) if compiled else divergence

    def __call__(
        self, model: HeadInput, teacher: HeadInput, next_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Their weighted sum, which has a gradient, and both by themselves: means over T tokens."""
        learning = (model.hidden, *model.weights)
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            self, model, teacher, next_T, *learning
        )
        return found

    def measure(
        self, model: HeadInput, teacher: HeadInput, next_T: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
        """The same three, and the gradients of the first by the hidden states and the weights."""
        sums = model.hidden.new_zeros(2, dtype=torch.float32)
        gradient_TD = torch.empty_like(model.hidden)
        by_weights: list[torch.Tensor] = []
        for start in range(0, len(next_T), HEAD_TOKENS):
            part = slice(start, start + HEAD_TOKENS)
            with torch.no_grad():
                teacher_TV = teacher.head(teacher.hidden[part])
            with torch.enable_grad():
                hidden_TD = model.hidden[part].detach().requires_grad_()
                logits_TV = model.head(hidden_TD)
            part_sums, gradient_TV = self._divergence(
                logits_TV.detach(), teacher_TV, next_T[part], self._objective
            )
            sums += part_sums
            scaled_TV = gradient_TV.div_(len(next_T)).to(logits_TV.dtype)
            inputs = (hidden_TD, *model.weights)
            gradient_TD[part], *own = torch.autograd.grad(logits_TV, inputs, scaled_TV)
            by_weights = by_weights or own  # the first part's become the sums of all
            if start:
                for total, one in zip(by_weights, own, strict=True):
                    total += one
        cross_entropy, kl = sums / len(next_T)
        loss = self._objective.cross_entropy * cross_entropy + self._objective.kl_weight * kl
        return (loss, cross_entropy, kl), [gradient_TD, *by_weights]


class _HeadLoss(torch.autograd.Function):
    """What `HeadTerms.measure` finds, with the gradient that it found."""

    @staticmethod
    def forward(
        ctx: Any,
        terms: HeadTerms,
        model: HeadInput,
        teacher: HeadInput,
        next_T: torch.Tensor,
        *_learning: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """`_learning` are the hidden states and the weights once more, for autograd to see."""
        found, gradients = terms.measure(model, teacher, next_T)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: torch.Tensor, *_: torch.Tensor) -> tuple[Any, ...]:
        # in place: a second pass through the same graph is an error, not another value
        return None, None, None, None, *(each.mul_(by_loss) for each in ctx.saved_tensors)


def divergence(
    logits_TV: torch.Tensor, teacher_TV: torch.Tensor, next_T: torch.Tensor, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over tokens of cross entropy and of KL(teacher‖model) at the temperature (2,).

    And the gradient of the weighted sum by the logits (T, V), in closed form: of cross entropy
    the softmax minus the next token, of τ² · KL the difference of both softmaxes times τ.
    """
    temperature = objective.temperature
    log_model_TV = logits_TV.float().log_softmax(-1)
    cross_entropy = functional.nll_loss(log_model_TV, next_T, reduction="sum")
    by_cross_entropy_TV = log_model_TV.exp() if objective.cross_entropy else None
    if temperature != 1:
        log_model_TV = (logits_TV.float() / temperature).log_softmax(-1)
    log_teacher_TV = (teacher_TV.float() / temperature).log_softmax(-1)
    teacher_probs_TV = log_teacher_TV.exp()
    # in place, because each of these is by far the largest tensor of a step
    kl = torch.linalg.vecdot(teacher_probs_TV, log_teacher_TV.sub_(log_model_TV)).sum()
    gradient_TV = log_model_TV.exp_().sub_(teacher_probs_TV).mul_(objective.kl * temperature)
    if by_cross_entropy_TV is not None:
        places_T = torch.arange(len(next_T), device=next_T.device)
        by_cross_entropy_TV[places_T, next_T] -= 1
        gradient_TV.add_(by_cross_entropy_TV, alpha=objective.cross_entropy)
    return torch.stack([cross_entropy, kl]), gradient_TV
