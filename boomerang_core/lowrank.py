"""The two student kinds as one thing: parameters to train → dense weights to run.

A block's parameters carry names relative to their layer (`mlp.down_proj.weight`).  For a
`full` student they are the dense weights.  For `lowrank` a linear map W has
`….lora_A` (r, in) and `….lora_B` (out, r), and its dense weight is W + B A.

Reduced-rank regression: Izenman 1975, "Reduced-rank regression for the multivariate linear
model"; the ridge variant is Mukherjee & Zhu 2011.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

A, B = ".lora_A", ".lora_B"


def dense_weights(
    base: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], transposed: bool
) -> dict[str, torch.Tensor]:
    """The weights that differ from `base`, the teacher layer's state dict.

    `transposed`: the architecture stores linear weights as (in, out), as GPT-2 does.
    """
    weights = {}
    for name, tensor in parameters.items():
        if name.endswith(A):
            stem = name.removesuffix(A)
            delta = parameters[stem + B] @ tensor
            weights[stem + ".weight"] = base[stem + ".weight"] + (delta.T if transposed else delta)
        elif not name.endswith(B):
            weights[name] = tensor
    return weights


def add_delta(
    parameters: Mapping[str, torch.Tensor], map_name: str, delta: torch.Tensor, transposed: bool
) -> dict[str, torch.Tensor]:
    """Parameters with `delta` (out, in) added to linear map `map_name`.

    A low-rank map is set, not added to: its factors become those of `delta`, whose rank must
    not exceed theirs.  That is the same thing for a map whose factors still multiply to zero.
    """
    changed = dict(parameters)
    if map_name + A in parameters:
        rank = parameters[map_name + A].shape[0]
        changed[map_name + B], changed[map_name + A] = balanced_factors(delta, rank)
    else:
        name = map_name + ".weight"
        changed[name] = parameters[name] + (delta.T if transposed else delta)
    return changed


def balanced_factors(delta: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Best rank-`rank` factors (out, r) and (r, in), of equal norm so that one rate fits both."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def reduce_rank(solution: torch.Tensor, cross: torch.Tensor, rank: int) -> torch.Tensor:
    """The best map of rank `rank` for a ridge problem whose free solution is known.

    `solution` (in, out) solves (G + λI) M = C and `cross` is C (in, out).  The fitted values'
    second moment is Cᵀ M; the optimum projects M onto its leading eigenvectors.
    """
    moment = cross.T @ solution
    _, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    leading = vectors[:, -min(rank, vectors.shape[1]) :]
    reduced: torch.Tensor = solution @ leading @ leading.T
    return reduced
