"""Attention sinks: the few tokens whose states are massive, and what they count in a loss.

Later layers attend to them where they have nothing to say (arXiv 2309.17453, 2402.17762); most
often it is a row's first token.  In SmolLM2-135M its state's norm grows within layer 11 from about
its row's median to 170 times that, and only where what enters the layer is nearly right: a student
that misses it by a little loses the sink, and with it every layer that comes after.  One token of
512 hardly shows in a mean.

Shapes: B rows, L tokens a row, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

MASSIVE = 20
"""How many times its row's median norm makes a token's state massive, and the token a sink."""


def attention_sinks(states: Iterable[torch.Tensor]) -> torch.Tensor:
    """Which tokens (B, L) have a massive state among the teacher's `states`, each (B, L, D)."""
    found: torch.Tensor | None = None
    for state_BLD in states:
        norm_BL = state_BLD.float().norm(dim=-1)
        massive_BL = norm_BL > MASSIVE * norm_BL.median(dim=-1, keepdim=True).values
        found = massive_BL if found is None else found | massive_BL
    assert found is not None, "no states"
    return found


def token_weights(sinks_BL: torch.Tensor, share: float) -> torch.Tensor:
    """What each token counts in its row's mean (B, L): a row's sinks `share` of it together.

    All alike in a row without sinks, and in every row where the share is 0: weights sum to 1.
    """
    length = sinks_BL.shape[-1]
    sinks_B1 = sinks_BL.sum(-1, keepdim=True)
    apart_BL = torch.where(
        sinks_BL, share / sinks_B1.clamp_min(1), (1 - share) / (length - sinks_B1).clamp_min(1)
    )
    has_both_B1 = (sinks_B1 > 0) & (sinks_B1 < length) & (share > 0)
    return torch.where(has_both_B1, apart_BL, 1 / length)
