"""The text of a run: read, split, continued by the teacher on either side, cut into rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.written import told_of_written, written_documents
from boomerang_core.text.documents import load_documents, read_text, save_documents
from boomerang_core.text.rows import Rows, Sides, begin_token, split, with_samples


def prepared_rows(
    recipe: Recipe, model: Any, tokenizer: Any, stage: Path
) -> tuple[Rows, dict[str, Any], list[str]]:
    """Rows of both sides, their counts for provenance, and the same in words.

    What the teacher writes stays in ``stage``.  Raises DataError, SettingsError.
    """
    every, seed = recipe.heldout_every, recipe.seed
    text = read_text(
        recipe.text,
        tokenizer,
        recipe.text_tokens,
        seed,
        recipe.chat_share,
        recipe.document_ends,
    )
    sides = split(text.drawn, every, recipe.heldout_tokens, seed)
    written = _written(recipe, model, tokenizer, sides, stage) if recipe.sample_tokens else []
    sides = with_samples(sides, written, every, seed)
    rows = sides.rows(recipe.row_length, begin_token(tokenizer))
    counts: dict[str, Any] = {
        "sources": text.to_json(),
        "teacher": sum(len(document) for document in written),
        "train": rows.train.numel(),
        "heldout": rows.heldout.numel(),
    }
    wrote = told_of_written(counts["teacher"], text, tokenizer)
    return rows, counts, [*text.lines, *wrote, *rows.told(recipe.end_to_end.tokens)]


def _written(
    recipe: Recipe, model: Any, tokenizer: Any, text: Sides, stage: Path
) -> list[torch.Tensor]:
    path = stage / "samples.safetensors"
    if not path.exists():
        parts = stage / "samples"
        save_documents(written_documents(recipe, model, tokenizer, text, parts), path)
        shutil.rmtree(parts)
    return load_documents(path)
