"""Which documents are held out, what the teacher is given of them, and how rows begin."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.distill import written
from boomerang_core.distill.data import Drawn
from boomerang_core.distill.prepared import prepared_rows
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.rows import Rows, pack, split
from boomerang_core.errors import DataError
from tests.core.conftest import VOCABULARY, tiny_tokenizer
from tests.core.rows import write_rows

SPECIAL = 4
"""Tokens below: those of the fixed prompts, whose words the tiny tokenizer does not know."""


def documents(count: int, length: int = 40) -> list[Drawn]:
    return [Drawn("source", False, torch.full((length,), i)) for i in range(count)]


def rows(**settings: int) -> Rows:
    return split(documents(12), **{"every": 4, "most": 10**6, "seed": 0, **settings}).rows(20, None)


class TestSplit:
    def test_no_document_is_on_both_sides(self) -> None:
        found = rows()
        assert not set(found.train.flatten().tolist()) & set(found.heldout.flatten().tolist())
        assert found.heldout.numel() == 3 * 40

    def test_no_more_is_held_out_than_is_enough(self) -> None:
        assert rows(most=41).heldout.numel() == 2 * 40
        assert rows(most=40).heldout.numel() == 40
        assert rows(most=40).train.numel() == 11 * 40

    def test_too_little_text_is_refused(self) -> None:
        for begin in (None, 1):
            with pytest.raises(DataError, match="has 5 tokens, fewer than one row of 8"):
                pack([torch.arange(5)], 8, "held-out", begin)

    def test_how_often_a_row_is_seen_is_told(self) -> None:
        told = rows().told(tokens=900)
        assert told == [
            "to train on: 360 tokens, held out: 120",
            "end to end, each row is seen 2.5 times",
        ]
        assert rows().told(tokens=0) == told[:1]


def repeat_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Iterator[torch.Tensor],
    num_tokens: int,
    seed: int,
    parts: Path,
    length: int,
    rows: int,
) -> list[torch.Tensor]:
    """A teacher that adds nothing to what it is given."""
    parts.mkdir()
    return list(itertools.islice(prompts, num_tokens // 10))


def test_what_is_held_out_reaches_training_through_no_prompt(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every document has a word of its own."""
    monkeypatch.setattr(written, "sample_documents", repeat_prompts)
    lines = [{"text": f"w{word} " * 40} for word in range(SPECIAL, VOCABULARY)]
    source = write_rows(tmp_path / "rows.jsonl", lines)
    chosen = replace(recipe, text=(source,), sample_tokens=4000, row_length=8)
    model = torch.nn.Linear(1, 1)
    model.device = torch.device("cpu")  # type: ignore[assignment]
    found, counts, _ = prepared_rows(chosen, model, tiny_tokenizer(), tmp_path)
    train, heldout = (
        {token for token in side.flatten().tolist() if token >= SPECIAL}
        for side in (found.train, found.heldout)
    )
    assert train | heldout == set(range(SPECIAL, VOCABULARY))
    assert not train & heldout
    assert counts["teacher"] > 1000
    assert found.heldout.numel() > len(heldout) * 40  # samples too
