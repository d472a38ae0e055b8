"""A small Llama and the published objective, written down plainly, in any precision.

Independent of the package and of `transformers`: tensors by their names in a checkpoint, every
step in the precision of those tensors.  For tests that hold our loss against float64.

Shapes: B rows, L tokens, D hidden, H heads, G groups of keys, E of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

Weights = Mapping[str, torch.Tensor]


def norm(hidden_BLD: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * hidden_BLD / (hidden_BLD.square().mean(-1, keepdim=True) + eps).sqrt()


def turned(states_BLHE: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary positions: the two halves of a head are turned by an angle for each place."""
    length, half = states_BLHE.shape[1], states_BLHE.shape[-1] // 2
    speeds = base ** -(torch.arange(half, dtype=states_BLHE.dtype) / half)
    angles_LE = torch.arange(length, dtype=speeds.dtype)[:, None] * speeds
    cos, sin = angles_LE.cos()[:, None], angles_LE.sin()[:, None]
    one, other = states_BLHE[..., :half], states_BLHE[..., half:]
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def attention(hidden_BLD: torch.Tensor, w: Weights, config: Any) -> torch.Tensor:
    rows, length, _ = hidden_BLD.shape
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    base = float(config.rope_parameters["rope_theta"])

    def split(name: str, parts: int) -> torch.Tensor:
        flat = hidden_BLD @ w[f"self_attn.{name}_proj.weight"].T
        return flat.view(rows, length, parts, -1)

    query = turned(split("q", heads), base)
    key = turned(split("k", groups), base).repeat_interleave(heads // groups, 2)
    value = split("v", groups).repeat_interleave(heads // groups, 2)
    scores_BHLL = torch.einsum("blhe,bmhe->bhlm", query, key) / query.shape[-1] ** 0.5
    later = torch.ones(length, length).triu(1).bool()
    weights_BHLL = scores_BHLL.masked_fill(later, -torch.inf).softmax(-1)
    mixed = torch.einsum("bhlm,bmhe->blhe", weights_BHLL, value).flatten(2)
    return mixed @ w["self_attn.o_proj.weight"].T


def layer(hidden_BLD: torch.Tensor, w: Weights, config: Any) -> torch.Tensor:
    eps = config.rms_norm_eps
    hidden_BLD = hidden_BLD + attention(
        norm(hidden_BLD, w["input_layernorm.weight"], eps), w, config
    )
    inner = norm(hidden_BLD, w["post_attention_layernorm.weight"], eps)
    gate, up = inner @ w["mlp.gate_proj.weight"].T, inner @ w["mlp.up_proj.weight"].T
    return hidden_BLD + (gate / (1 + (-gate).exp()) * up) @ w["mlp.down_proj.weight"].T


def log_probabilities(hidden_BLD: torch.Tensor, w: Weights, config: Any) -> torch.Tensor:
    """Of the next token, at every place that has one, through a head that is tied."""
    normed = norm(hidden_BLD[:, :-1], w["model.norm.weight"], config.rms_norm_eps)
    logits_BLV = normed @ w["model.embed_tokens.weight"].T
    return logits_BLV - logits_BLV.logsumexp(-1, keepdim=True)


def published_loss(
    model_BLV: torch.Tensor,
    teacher_BLV: torch.Tensor,
    pairs: list[tuple[torch.Tensor, torch.Tensor]],
    ids_BL: torch.Tensor,
) -> torch.Tensor:
    """CE + 0.1 KL + 2.0 / |A| · Σ (1 - cos), from log probabilities and pairs of states."""
    cross_entropy = -model_BLV.gather(-1, ids_BL[:, 1:, None]).mean()
    kl = (teacher_BLV.exp() * (teacher_BLV - model_BLV)).sum(-1).mean()
    aligned = [
        (1 - (one * two).sum(-1) / (one.square().sum(-1) * two.square().sum(-1)).sqrt()).mean()
        for one, two in pairs
    ]
    return cross_entropy + 0.1 * kl + 2.0 * sum(aligned) / len(aligned)
