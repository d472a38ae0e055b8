"""Rows of tokens: documents split by side, then laid end to end and cut.

Shapes: R rows, L tokens a row.  A tokenised document is a 1-D int64 tensor of token ids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from boomerang_core.errors import DataError
from boomerang_core.text.documents import Drawn


@dataclass(frozen=True)
class Rows:
    """Token rows (R, L) cut from documents; no document is on both sides."""

    train: torch.Tensor
    heldout: torch.Tensor

    def told(self, tokens: int) -> list[str]:
        """In words: how many there are, and how often `tokens` end to end see each."""
        lines = [f"to train on: {self.train.numel():,} tokens, held out: {self.heldout.numel():,}"]
        seen = f"end to end, each row is seen {tokens / self.train.numel():,.1f} times"
        return [*lines, seen] if tokens else lines


@dataclass(frozen=True, eq=False)
class Split:
    """Documents to train on, and documents that are held out."""

    train: list[Drawn]
    heldout: list[Drawn]

    def rows(self, length: int, begin: int | None) -> Rows:
        """Both sides packed.  Raises DataError when one has less than a row."""
        return Rows(
            pack([document.ids for document in self.train], length, "training", begin),
            pack([document.ids for document in self.heldout], length, "held-out", begin),
        )


def split_documents(documents: Sequence[Drawn], every: int, most: int, seed: int) -> Split:
    """Shuffle documents and hold out each `every`-th, until those have `most` tokens."""
    order = list(documents)
    random.Random(seed).shuffle(order)
    split = Split([], [])
    tokens = 0
    for place, document in enumerate(order):
        if place % every or tokens >= most:
            split.train.append(document)
        else:
            split.heldout.append(document)
            tokens += len(document.ids)
    return split


def with_samples(split: Split, samples: Sequence[torch.Tensor], every: int, seed: int) -> Split:
    """The teacher's samples among the documents of either side.

    Each `every`-th is held out: those whose prompts are from held-out text (`split_prompts`).
    """
    if not samples:
        return split
    written = [Drawn("teacher", False, ids) for ids in samples]
    train = [sample for place, sample in enumerate(written) if place % every]
    both = Split([*split.train, *train], [*split.heldout, *written[::every]])
    for side in (both.train, both.heldout):
        random.Random(seed).shuffle(side)
    return both


def pack(
    documents: Sequence[torch.Tensor], length: int, side: str, begin: int | None = None
) -> torch.Tensor:
    """Concatenate documents and cut whole rows of `length` tokens (R, L); the rest is dropped.

    Every row begins with the token `begin`, if there is one (`begin_token`).  Raises DataError
    for less than one row.
    """
    tokens = torch.cat([*documents, torch.empty(0, dtype=torch.int64)])
    rows_RL = cut_rows(tokens, length, begin)
    if not len(rows_RL):
        raise DataError(
            f"{side} text has {len(tokens)} tokens, fewer than one row of {length}: "
            "give more text, or a smaller --row-length"
        )
    return rows_RL


def cut_rows(tokens: torch.Tensor, length: int, begin: int | None = None) -> torch.Tensor:
    """Whole rows (R, L) of a token sequence; the rest is dropped.

    The token `begin`, if there is one, is put before a row that does not begin with it.
    """
    if begin is None:
        return tokens[: len(tokens) // length * length].view(-1, length)
    rows_RL = tokens.new_full((len(tokens) // (length - 1), length), begin)
    count = start = 0
    while start < len(tokens):
        own = int(tokens[start]) == begin  # as the text of a chat template may begin
        stop = start + length - (not own)
        if stop > len(tokens):
            break
        rows_RL[count, not own :] = tokens[start:stop]
        count, start = count + 1, stop
    return rows_RL[:count]


def begin_token(tokenizer: Any) -> int | None:
    """The token that a tokenizer puts before every text, and a server before every prompt.

    None for the many that put none there, whatever they call their begin token.
    """
    begin = getattr(tokenizer, "bos_token_id", None)
    return begin if begin is not None and tokenizer("a")["input_ids"][:1] == [begin] else None
