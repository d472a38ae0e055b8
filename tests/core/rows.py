"""GivenFiles of text for the tests: rows of words that the tiny tokenizer knows."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from boomerang_core.text.documents import Text, read_text
from tests.core.conftest import VOCABULARY, tiny_tokenizer

ALL = 10**9
"""More tokens than any source here holds."""


def isolate_library(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The library keeps its locks in `cache`, and does not wait seconds for its threads to end."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def words(draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(count))


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def text_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"text": words(draw, draw.randrange(5, 30))} for _ in range(count)]


def chat_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"messages": talk(words(draw, 5), words(draw, 12))} for _ in range(count)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    parquet.write_table(table, path, row_group_size=7)
    return str(path)


def read(*sources: str, tokens: int = ALL, seed: int = 0, share: float | None = None) -> Text:
    return read_text(sources, tiny_tokenizer(), tokens, seed, share)


def ids(text: Text) -> list[list[int]]:
    return [document.tolist() for document in text.documents]


def encoded(row: Mapping[str, Any]) -> list[int]:
    """A row's token ids, word by word: the template of the tiny tokenizer joins contents."""
    text = row.get("text") or "".join(message["content"] for message in row["messages"])
    known = tiny_tokenizer().get_vocab()
    return [known.get(word, known["<unk>"]) for word in text.split()]


def counted(text: Text) -> dict[bool, int]:
    found = {False: 0, True: 0}
    for count in text.counts:
        found[count.chat] += count.tokens
    return found
