"""Which documents are held out, what the teacher is given of them, and how rows begin."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.distill import prepared
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.prepared import prepared_rows
from boomerang_core.distill.prompts import teacher_prompts
from boomerang_core.distill.recipe import Recipe
from boomerang_core.errors import DataError
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.text.documents import Drawn
from boomerang_core.text.evaluation import Sample
from boomerang_core.text.rows import Rows, begin_token, pack, split_documents
from tests.core.conftest import VOCABULARY, beginning_tokenizer, tiny_teacher, tiny_tokenizer
from tests.core.rows import write_rows

SPECIAL = 4
"""Tokens below: those of the fixed prompts, whose words the tiny tokenizer does not know."""


def documents(count: int, length: int = 40) -> list[Drawn]:
    return [Drawn("source", False, torch.full((length,), i)) for i in range(count)]


def rows(**settings: int) -> Rows:
    return split_documents(
        documents(12), **{"every": 4, "most": 10**6, "seed": 0, **settings}
    ).rows(20, None)


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
    monkeypatch.setattr(prepared, "sample_documents", repeat_prompts)
    lines = [{"text": f"w{word} " * 40} for word in range(SPECIAL, VOCABULARY)]
    source = write_rows(tmp_path / "rows.jsonl", lines)
    chosen = replace(recipe, text=(source,), sample_tokens=4000, row_length=8)
    model = tiny_teacher("llama", True)
    found, counts, _ = prepared_rows(chosen, model, tiny_tokenizer(), tmp_path)
    train, heldout = (
        {token for token in side.flatten().tolist() if token >= SPECIAL}
        for side in (found.train, found.heldout)
    )
    assert train | heldout == set(range(SPECIAL, VOCABULARY))
    assert not train & heldout
    assert counts["teacher"] > 1000
    assert found.heldout.numel() > len(heldout) * 40  # samples too


class TestBegin:
    """The token that a tokenizer puts before every text begins every row, and every raw prompt."""

    def test_a_tokenizer_that_has_a_begin_token_need_not_use_it(self) -> None:
        assert begin_token(tiny_tokenizer()) is None
        assert begin_token(beginning_tokenizer()) == 1

    def test_every_row_begins_with_it_once(self) -> None:
        found = pack([torch.arange(4, 14), torch.tensor([1, 20, 21, 22])], 6, "training", 1)
        assert found.tolist() == [
            [1, 4, 5, 6, 7, 8],
            [1, 9, 10, 11, 12, 13],
        ]
        found = pack([torch.arange(4, 14), torch.tensor([1, *range(20, 25)])], 6, "training", 1)
        assert found[-1].tolist() == [1, 20, 21, 22, 23, 24]

    def test_no_row_changes_where_there_is_none(self) -> None:
        assert pack([torch.arange(4, 14)], 5, "training").flatten().tolist() == [*range(4, 14)]

    def test_rows_to_score(self, tmp_path: Path) -> None:
        (path := tmp_path / "a.txt").write_text(" ".join(f"w{word}" for word in range(4, 24)))
        found = Sample(path, 20, 6).rows(beginning_tokenizer())
        assert found[:, 0].tolist() == [1, 1, 1, 1]
        assert found[:, 1:].flatten().tolist() == [*range(4, 24)]
        with pytest.raises(DataError, match="has 20 tokens; scoring 21 takes 25"):
            Sample(path, 21, 6).rows(beginning_tokenizer())

    @pytest.mark.parametrize("document", [[4, 5, 6], [1, 4, 5, 6], [1, 4, 5, 6, 2], [4, 5, 6, 2]])
    def test_prompts(self, document: list[int]) -> None:
        """As a server makes them: no document's end in the middle of one, nor two beginnings."""
        documents = [torch.tensor(document)]
        found = itertools.islice(teacher_prompts(beginning_tokenizer(), documents, 0), 30)
        raw, chat = [], []
        for prompt in found:
            (chat if prompt.chat else raw).append(prompt.ids.tolist())
        assert all(ids[0] == 1 and ids.count(1) == 1 for ids in raw)
        assert [1, 4, 5, 6] in raw
        assert not any({1, 2} & set(ids) for ids in chat)


def test_a_text_is_read_once(recipe: Recipe, tmp_path: Path) -> None:
    """Read again, it might be another one: a run that goes on must not see that."""
    source = tmp_path / "rows.jsonl"
    write_rows(source, [{"text": f"w{word} " * 40} for word in range(SPECIAL, VOCABULARY)])
    chosen = replace(recipe, text=(str(source),), sample_tokens=0, row_length=8)
    teacher = tiny_teacher("llama", True)
    first = prepared_rows(chosen, teacher, tiny_tokenizer(), tmp_path)
    source.unlink()
    again = prepared_rows(chosen, None, None, tmp_path)
    assert torch.equal(again[0].train, first[0].train)
    assert torch.equal(again[0].heldout, first[0].heldout)
    assert again[1:] == first[1:]
    with pytest.raises(DataError):
        prepared_rows(replace(chosen, row_length=9), teacher, tiny_tokenizer(), tmp_path)


def test_tokens_of_another_model(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    tiny_teacher("llama", True).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    source = write_rows(tmp_path / "rows.jsonl", [{"text": "w4 <|new|> " * 40}] * 40)
    chosen = replace(recipe, teacher=str(folder), text=(source,), sample_tokens=400)
    message = f"a token {VOCABULARY}, and the model's embedding has"
    with pytest.raises(DataError, match=message):
        make(chosen, tmp_path / "out", tmp_path / "work")
    with pytest.raises(DataError, match=message):
        make(
            replace(recipe, teacher=str(folder)), tmp_path / "out", tmp_path / "work", Path(source)
        )
    runner = LayerRunner(tiny_teacher("llama", True), 8)
    with pytest.raises(DataError, match=f"a token {VOCABULARY}"):
        runner.embed(torch.full((1, 8), VOCABULARY))
