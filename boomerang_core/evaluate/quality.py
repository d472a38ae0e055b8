"""KL to the teacher, top-1 agreement and perplexity of routes, on rows of held-out text.

Shapes: R rows, B rows at a time, L tokens a row, T scored tokens, V vocabulary.

Every size is a route, so the student, the teacher, all sizes between them and naive pruning are
measured by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tqdm import tqdm

from boomerang_core.errors import CheckpointError
from boomerang_core.layer_runner import batches
from boomerang_core.route import Route, spell
from boomerang_core.route_runner import Prefix, RouteRunner
from boomerang_core.sizes import Quality

_MOST_NATS = 709  # a token: a float holds no perplexity above


class _Score:
    """Sums over scored tokens of one route."""

    def __init__(self) -> None:
        self.kl = self.agree = self.loss = 0.0
        self.tokens = 0

    def add(self, teacher: _TeacherLogits, logits_TV: torch.Tensor, next_T: torch.Tensor) -> None:
        """KL(teacher‖size) = Σ p log p - Σ p z + log Σ exp z, without a second softmax."""
        log_sum_T = logits_TV.logsumexp(-1)
        cross_T = torch.linalg.vecdot(teacher.probs_TV, logits_TV)
        self.kl += (teacher.entropy_T.neg() - cross_T + log_sum_T).clamp_min(0).sum().item()
        self.agree += (logits_TV.argmax(-1) == teacher.top_T).sum().item()
        self.loss += (log_sum_T - logits_TV.gather(-1, next_T[:, None])[:, 0]).sum().item()
        self.tokens += len(next_T)

    def quality(self, route: Route) -> Quality:
        """Means over all tokens counted.  Raises `CheckpointError` where one is no number."""
        kl, loss = self.kl / self.tokens, self.loss / self.tokens
        perplexity = math.exp(loss) if loss < _MOST_NATS else math.inf
        if not (math.isfinite(kl) and math.isfinite(perplexity)):
            raise CheckpointError(
                f"the model {spell(route)} has a KL of {kl} and a perplexity of {perplexity}"
            )
        return Quality(kl, self.agree / self.tokens, perplexity, self.tokens)


class _TeacherLogits:
    """What a comparison needs of the teacher's logits."""

    def __init__(self, logits_TV: torch.Tensor) -> None:
        self.top_T = logits_TV.argmax(-1)
        log_probs_TV = logits_TV.log_softmax(-1)
        self.probs_TV = log_probs_TV.exp()
        self.entropy_T = -torch.linalg.vecdot(self.probs_TV, log_probs_TV)


@torch.inference_mode()
def evaluate_routes(
    runner: RouteRunner,
    teacher_route: Route,
    routes: Sequence[Route],
    ids_RL: torch.Tensor,
    label: str | None,
) -> list[Quality]:
    """The quality of every route, in order, on rows of tokens.

    Neighbouring routes that begin alike share that work, so give a ladder in its order.  `label`
    names the progress bar; None shows none.  Raises `CheckpointError`, naming the route, where a
    figure is no number: nothing that reads one could go on with it.
    """
    scores = [_Score() for _ in routes]
    total = len(ids_RL) * len(routes)
    with tqdm(total=total, desc=label, unit="row", disable=label is None) as bar:
        for part in batches(len(ids_RL), 1):
            ids_BL = ids_RL[part]
            prefix = Prefix(runner, ids_BL)
            next_T = ids_BL[:, 1:].flatten().to(runner.device)
            teacher = _TeacherLogits(prefix.logits(teacher_route)[:, :-1].flatten(0, 1))
            for score, route in zip(scores, routes, strict=True):
                score.add(teacher, prefix.logits(route)[:, :-1].flatten(0, 1), next_T)
                bar.update()
    return [score.quality(route) for score, route in zip(scores, routes, strict=True)]
