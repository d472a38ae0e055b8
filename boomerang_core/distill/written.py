"""The text that a teacher writes itself, for `make`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.sampling import sample_documents, sided_prompts
from boomerang_core.text.documents import Text, has_chat_template
from boomerang_core.text.rows import Sides


def written_documents(
    recipe: Recipe, model: Any, tokenizer: Any, text: Sides, parts: Path
) -> list[torch.Tensor]:
    """Documents of the recipe's number of tokens; finished batches stay in the folder `parts`.

    They continue the text, and go to its sides by `with_samples`.

    On a GPU in bfloat16: what is sampled need not be exact, and this is twice as fast.
    """
    return sample_documents(
        in_bfloat16(model) if model.device.type == "cuda" else model,
        tokenizer,
        sided_prompts(tokenizer, text, recipe.heldout_every, recipe.seed),
        recipe.sample_tokens,
        recipe.seed,
        parts,
        recipe.sample_length,
        recipe.sample_rows,
    )


def told_of_written(tokens: int, text: Text, tokenizer: Any) -> list[str]:
    """In words: how many tokens it wrote, and a warning where no chat is trained on.

    A teacher with a chat template writes chat too (`sampling.py`).
    """
    lines = [f"teacher: {tokens:,} tokens"]
    if not tokens and has_chat_template(tokenizer) and not any(d.chat for d in text.drawn):
        lines.append(
            "warning: the teacher has a chat template, and none of the text is chat: small sizes "
            "of a post-trained teacher then collapse; give chat too, or --sample-tokens"
        )
    return lines


def written_share(counts: Mapping[str, Any]) -> float:
    """The share of all tokens that the teacher wrote, by the counts of a family's provenance."""
    own: int = counts["teacher"]
    others: int = sum(source["tokens"] for source in counts["sources"])
    return own / (own + others)


def in_bfloat16(model: Any) -> Any:
    """A copy of the model in bfloat16; there are never two in the model's own format."""
    copies: dict[int, Any] = {  # for `deepcopy`, what stands for each parameter; tied ones are one
        id(parameter): nn.Parameter(parameter.to(torch.bfloat16, copy=True), requires_grad=False)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, copies).to(torch.bfloat16)  # buffers are left, which are small
