"""The text of a run: read, split, continued by the teacher on either side, cut into rows.

The rows are kept.  A text that is read again may be another one: a stream may be cut short, and
templates of chat tell the date.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from boomerang_core.distill.prompts import split_prompts
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.sampling import in_bfloat16, sample_documents
from boomerang_core.files import save_json, save_tensors
from boomerang_core.layer_runner import require_known
from boomerang_core.text.documents import (
    Text,
    has_chat_template,
    load_documents,
    read_text,
    save_documents,
)
from boomerang_core.text.rows import Rows, Split, begin_token, split_documents, with_samples


def prepared_rows(
    recipe: Recipe, model: Any, tokenizer: Any, stage: Path
) -> tuple[Rows, dict[str, Any], list[str]]:
    """Rows of both sides, their counts for provenance, and the same in words.

    They and what the teacher writes stay in `stage`; rows found there are mapped into memory,
    which processes of one machine share.  Raises DataError, SettingsError, WriteError.
    """
    path = stage / f"rows-{recipe.row_length}.safetensors"
    notes = path.with_suffix(".json")  # written last
    if not notes.exists():
        rows, counts, lines = _new_rows(recipe, model, tokenizer, stage)
        save_tensors({"train": rows.train, "heldout": rows.heldout}, path)
        save_json({"counts": counts, "lines": lines}, notes)
    found = load_file(path)
    rows = Rows(found["train"], found["heldout"])
    told = json.loads(notes.read_text(encoding="utf-8"))
    return rows, told["counts"], [*told["lines"], *rows.told(recipe.end_to_end.tokens)]


def _new_rows(
    recipe: Recipe, model: Any, tokenizer: Any, stage: Path
) -> tuple[Rows, dict[str, Any], list[str]]:
    """Rows of a text that is read now, their counts, and what there is to say of the text."""
    every, seed = recipe.heldout_every, recipe.seed
    text = read_text(
        recipe.text,
        tokenizer,
        recipe.text_tokens,
        seed,
        recipe.chat_share,
        recipe.document_ends,
    )
    require_known(model, *text.documents)
    split = split_documents(text.drawn, every, recipe.heldout_tokens, seed)
    written = _written(recipe, model, tokenizer, split, stage) if recipe.sample_tokens else []
    rows = with_samples(split, written, every, seed).rows(recipe.row_length, begin_token(tokenizer))
    counts: dict[str, Any] = {
        "sources": text.to_json(),
        "teacher": sum(len(document) for document in written),
        "train": rows.train.numel(),
        "heldout": rows.heldout.numel(),
    }
    return rows, counts, [*text.lines, *told_of_written(counts["teacher"], text, tokenizer)]


def _written(
    recipe: Recipe, model: Any, tokenizer: Any, split: Split, stage: Path
) -> list[torch.Tensor]:
    """What the teacher writes: on a GPU in bfloat16, which need not be exact and is twice as fast.

    Finished batches are kept until all are there.
    """
    path = stage / "samples.safetensors"
    if not path.exists():
        parts = stage / "samples"
        documents = sample_documents(
            in_bfloat16(model) if model.device.type == "cuda" else model,
            tokenizer,
            split_prompts(tokenizer, split, recipe.heldout_every, recipe.seed),
            recipe.sample_tokens,
            recipe.seed,
            parts,
            recipe.sample_length,
            recipe.sample_rows,
        )
        save_documents(documents, path)
        shutil.rmtree(parts)
    return load_documents(path)


def told_of_written(tokens: int, text: Text, tokenizer: Any) -> list[str]:
    """In words: how many tokens it wrote, and a warning where no chat is trained on.

    A teacher with a chat template writes chat too (`prompts.py`).
    """
    lines = [f"teacher: {tokens:,} tokens"] if tokens else []
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
