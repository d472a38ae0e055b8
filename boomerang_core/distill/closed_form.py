"""Closed form: ridge least squares on a block's down map, no gradient.

The down map is the last linear map of a layer before the residual sum, so the layer's output is
linear in it: `y = rest + W a`.  Given the layer's output now, the residual `t - y` to the
teacher's state at the block's end is a linear regression on `a`.

Shapes: N tokens, I inner (the down map's input), D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from boomerang_core.errors import SettingsError
from boomerang_core.lowrank import reduce_rank


@dataclass
class Moments:
    """Gram matrix (I, I) and cross moments (I, D) of a weighted regression.

    In float64, since the Gram matrix is close to singular.
    """

    gram: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def zeros(cls, inner_NI: torch.Tensor, hidden: int) -> Moments:
        """Of no token yet, on the device of `inner_NI`."""
        inner = inner_NI.shape[1]
        return cls(
            inner_NI.new_zeros(inner, inner, dtype=torch.float64),
            inner_NI.new_zeros(inner, hidden, dtype=torch.float64),
        )

    def add(
        self,
        inner_NI: torch.Tensor,
        output_ND: torch.Tensor,
        target_ND: torch.Tensor,
        weights_N: torch.Tensor,
    ) -> None:
        """Count tokens in: squared errors relative to ‖target‖², times `weights_N`.

        Relative, because states grow to 29,000 on a few tokens.
        """
        norm_N1 = target_ND.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        scale_N1 = weights_N.sqrt()[:, None] / norm_N1
        inner_NI = inner_NI * scale_N1
        self.gram += inner_NI.T @ inner_NI
        self.cross += inner_NI.T @ ((target_ND - output_ND) * scale_N1)

    def solve(self, ridge: float, rank: int | None) -> torch.Tensor:
        """The change of the down map (D, I); `ridge` is relative to G's mean diagonal.

        Raises SettingsError for one so small that G stays singular, as of fewer tokens than I.
        """
        strength = ridge * self.gram.diagonal().mean().clamp_min(1e-12)
        regular_II = self.gram + strength * torch.eye(len(self.gram)).to(self.gram)
        lower_II, failed = torch.linalg.cholesky_ex(regular_II)
        if failed.item():
            raise SettingsError(
                f"a ridge of {ridge} is too small for so few tokens of a block: "
                "give a larger one, or more block_tokens"
            )
        solution_ID = torch.cholesky_solve(self.cross, lower_II)
        if rank is not None:
            solution_ID = reduce_rank(solution_ID, self.cross, rank)
        return solution_ID.T.float()


@torch.no_grad()
def fit_down_map(
    layer: Callable[[torch.Tensor], torch.Tensor],
    down_map: nn.Module,
    parts: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    ridge: float,
    rank: int | None,
) -> torch.Tensor:
    """The change of `down_map` (D, I) that brings `layer` closest to its targets.

    `parts` yields input and target hidden states (B, L, D), and what each token counts (B, L);
    `down_map` is inside `layer`.
    """
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    handle = down_map.register_forward_pre_hook(keep)
    moments: Moments | None = None
    try:
        for hidden_BLD, target_BLD, weights_BL in parts:
            output_ND = layer(hidden_BLD).flatten(0, 1)
            inner_NI = seen.pop().reshape(len(output_ND), -1)
            moments = moments or Moments.zeros(inner_NI, output_ND.shape[1])
            moments.add(inner_NI, output_ND, target_BLD.flatten(0, 1), weights_BL.flatten())
    finally:
        handle.remove()
    assert moments is not None, "no text to fit on"
    return moments.solve(ridge, rank)
