"""The beginning of a text as rows of tokens, to measure on.

Shapes: R rows, L tokens a row.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boomerang_core.contents import sha256_of
from boomerang_core.errors import DataError
from boomerang_core.text.documents import read_text
from boomerang_core.text.rows import begin_token, cut_rows
from boomerang_core.text.sources import is_plain, plain_text, shown

_SPARE = 256
"""Tokens at the end of a part of a text that what follows it may change."""

_JOINTS = re.compile(r" @(.)@ ")
_BEFORE = re.compile(r" ([,.;:!?%)\]]|'s\b|'t\b|'re\b|'ve\b|'ll\b|'d\b|n't\b)")
_AFTER = re.compile(r"([(\[$£]) ")
_QUOTED = re.compile(r'" ([^"]*) "')
_SENTENCE_END = re.compile(r"(?<= \.) ")


@dataclass(frozen=True)
class Sample:
    """The rows from a text's beginning that score at least `tokens` tokens.

    The documents of JSONL and parquet come in the order that seed 0 gives.
    """

    text: Path
    tokens: int
    row_length: int

    def rows(self, tokenizer: Any) -> torch.Tensor:
        """Token ids (R, L), of which each row scores L - 1: its first has no context.

        Raises `DataError` for a file that cannot be read or is too short.
        """
        count = scoring_rows(self.tokens, self.row_length)
        ids = _leading_ids(str(self.text), tokenizer, count * self.row_length)
        begin = begin_token(tokenizer)
        ids_RL = cut_rows(ids, self.row_length, begin)[:count]
        if len(ids_RL) < count:
            needed = count * (self.row_length - (begin is not None))
            raise DataError(
                f"the evaluation text has {len(ids)} tokens; scoring {self.tokens} takes {needed}: "
                "give more text, or score fewer tokens"
            )
        return ids_RL

    def note(self) -> dict[str, Any]:
        """What it is, for provenance."""
        return {"text": self.text.name, "sha256": sha256_of(self.text), **self.settings}

    @property
    def settings(self) -> dict[str, int]:
        """How much of the text it is."""
        return {"tokens": self.tokens, "row_length": self.row_length}


def scoring_rows(tokens: int, row_length: int) -> int:
    """How many rows score so many tokens."""
    return math.ceil(tokens / (row_length - 1))


def _leading_ids(source: str, tokenizer: Any, wanted: int) -> torch.Tensor:
    """Token ids of the source's beginning: at least `wanted`, or all that it has."""
    if is_plain(source):
        return _plain_ids(plain_text(source, "evaluation text"), tokenizer, wanted)
    text = read_text([source], tokenizer, wanted, seed=0)
    for skipped in text.skipped:
        print(f"{shown(source)}: {skipped}", file=sys.stderr)
    return torch.cat(text.documents)


def _plain_ids(text: str, tokenizer: Any, wanted: int) -> torch.Tensor:
    """Token ids of the text's beginning: at least `wanted`, or all that it has.

    A long text is tokenised up to the end of some line only.  What follows there can change only
    the last few tokens, so the first `wanted` are those of the whole text.
    """
    wordwise = "<unk>" in text
    characters = 8 * (wanted + _SPARE)
    while True:
        end = len(text) if characters >= len(text) else text.rfind("\n", 0, characters) + 1
        plain = detokenise(text[:end]) if wordwise else text[:end]
        ids = tokenizer(plain, add_special_tokens=False)["input_ids"]
        if end == len(text) or len(ids) >= wanted + _SPARE:
            return torch.tensor(ids, dtype=torch.int64)
        characters *= 4


def detokenise(text: str) -> str:
    """Plain prose from WikiText's word-level form; other text passes through all but unchanged.

    Sentences with `<unk>` and headings are dropped, `@-@` marks joined, and the spaces
    before punctuation closed.
    """
    paragraphs = [_paragraph(line) for line in text.splitlines() if not line.startswith(" =")]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _paragraph(line: str) -> str:
    sentences = [part for part in _SENTENCE_END.split(line.strip()) if "<unk>" not in part]
    joined = _JOINTS.sub(r"\1", " ".join(sentences))
    return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", _QUOTED.sub(r'"\1"', joined)))
