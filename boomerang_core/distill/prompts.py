"""What a teacher is given to continue: beginnings of documents, and chat requests about them.

A prompt or a document is a 1-D int64 tensor of token ids.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from boomerang_core.text.documents import chat_text, has_chat_template, raw
from boomerang_core.text.rows import Split, begin_token

# Beginnings of prose. An instruction-tuned teacher continues them as documents, which a bare
# begin-of-sequence token alone seldom makes it do.
PROSE_OPENINGS = (
    "The history of the city begins in",
    "She was born in a small village and",
    "In the early twentieth century , the",
    "The species is found in",
    "The battle began on the morning of",
    "The album was recorded in",
    "During the winter, the river",
    "The first season of the series",
    "The railway was built between",
    "Scientists have long known that",
    "The ship was launched in",
    "The novel tells the story of",
    "The bridge was designed by",
    "According to the report, the government",
    "The team finished the season with",
    "The storm moved slowly across",
)
QUESTIONS = (
    "What is the capital of Australia, and why was it chosen?",
    "Explain how a refrigerator works.",
    "Write a short story about a lighthouse keeper.",
    "Write a Python function that reverses a list.",
    "Give me three tips for learning a language.",
    "Why is the sky blue?",
    "Summarise the causes of the First World War.",
    "How do I make bread without yeast?",
    "What is the difference between a virus and a bacterium?",
    "Write a polite email asking for a day off.",
    "Tell me about the life of Marie Curie.",
    "How many hours are there in three weeks?",
    "Describe a rainy afternoon in a large city.",
    "What should I know before adopting a dog?",
    "How does a bill become law?",
    "Explain compound interest with an example.",
)
REQUESTS = (
    "Summarise this passage in one paragraph:\n\n{}",
    "Continue this text:\n\n{}",
    "Explain this to a beginner:\n\n{}",
    "What questions does this passage leave open?\n\n{}",
    "Rewrite this in plain words:\n\n{}",
    "Tell me more about the subject of this text:\n\n{}",
    "{}\n\nWhat does that mean?",
    "Write a short article that begins with these words: {}",
)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the teacher continues, and whether it is chat."""

    ids: torch.Tensor
    chat: bool = False


def teacher_prompts(
    tokenizer: Any, documents: Sequence[torch.Tensor], seed: int
) -> Iterator[Prompt]:
    """Endless prompts: beginnings of documents and chat requests in turn.

    Without `documents` a few fixed openings and questions, and the bare begin token, repeat.
    """
    fixed = itertools.cycle(_fixed_prompts(tokenizer))
    if not documents:
        yield from fixed
    draw = random.Random(seed)
    while True:
        yield next(fixed)
        for _ in range(8):
            opening = _inside(tokenizer, draw.choice(documents))[: draw.randrange(8, 33)]
            yield Prompt(_begun(tokenizer, opening.tolist()))
            passage = _inside(tokenizer, draw.choice(documents))[: draw.randrange(32, 97)]
            yield _chat(tokenizer, draw.choice(REQUESTS).format(tokenizer.decode(passage)))


def split_prompts(
    tokenizer: Any, documents: Split, every: int, seed: int
) -> Iterator[torch.Tensor]:
    """Prompts of which each `every`-th is from held-out documents, the others from training ones.

    So what the teacher writes has a side too, and takes nothing over to the other one.
    """
    train = teacher_prompts(tokenizer, raw(documents.train), seed)
    heldout = teacher_prompts(tokenizer, raw(documents.heldout), seed)
    for place in itertools.count():
        yield next(train if place % every else heldout).ids


def _fixed_prompts(tokenizer: Any) -> list[Prompt]:
    """An opening, a question and the bare begin token in turn."""
    begin = Prompt(torch.tensor([_bare_begin(tokenizer)]))
    found = []
    for opening, question in zip(PROSE_OPENINGS, QUESTIONS, strict=True):
        found += [
            _raw(tokenizer, opening),
            _chat(tokenizer, question),
            begin,
        ]
    return found


def _inside(tokenizer: Any, document: torch.Tensor) -> torch.Tensor:
    """A document without the tokens that say where it begins and ends; as it is, if that is all."""
    begin, end = begin_token(tokenizer), tokenizer.eos_token_id
    start = int(begin is not None and int(document[0]) == begin)
    stop = len(document) - int(end is not None and int(document[-1]) == end)
    return document[start:stop] if start < stop else document


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _raw(tokenizer: Any, text: str) -> Prompt:
    """Text that is no chat, as a prompt."""
    return Prompt(_begun(tokenizer, _encode(tokenizer, text)))


def _begun(tokenizer: Any, ids: list[int]) -> torch.Tensor:
    """A raw prompt as a server makes it of the same text."""
    begin = begin_token(tokenizer)
    return torch.tensor(ids if begin is None else [begin, *ids])


def _bare_begin(tokenizer: Any) -> int:
    """A token to begin with where there is no text at all."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _chat(tokenizer: Any, question: str) -> Prompt:
    if not has_chat_template(tokenizer):
        return _raw(tokenizer, question)
    messages = [{"role": "user", "content": question}]
    text = chat_text(tokenizer, messages, add_generation_prompt=True)
    return Prompt(torch.tensor(_encode(tokenizer, text)), chat=True)
