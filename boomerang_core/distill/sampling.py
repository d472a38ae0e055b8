"""Text that the teacher writes itself: prompts, and its continuations with transformers.

Shapes: R rows, L tokens a row.  A prompt or a document is a 1-D int64 tensor of token ids.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from boomerang_core.files import write_atomically
from boomerang_core.text.documents import (
    Drawn,
    decode,
    has_chat_template,
    load_documents,
    raw,
    save_documents,
)
from boomerang_core.text.rows import Sides, begin_token

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


def sample_documents(
    model: Any,
    tokenizer: Any,
    prompts: Iterator[torch.Tensor],
    num_tokens: int,
    seed: int,
    parts: Path,
    length: int = 192,
    rows: int = 64,
) -> list[torch.Tensor]:
    """Let the teacher continue ``prompts`` at temperature 1 until there are ``num_tokens``.

    No other setting of a checkpoint's counts but its end tokens.
    ``length`` is the most that it adds to a prompt; ``rows`` prompts run at once.  Each such batch
    has a seed of its own and stays in the folder ``parts``: a stopped run goes on to the same text.
    """
    documents: list[torch.Tensor] = []
    written = 0  # not the bar's own count: a bar that is turned off does not count
    with tqdm(total=num_tokens, desc="teacher writes text", unit="tok") as bar:
        batches = itertools.count()
        while written < num_tokens:
            batch, asked = next(batches), list(itertools.islice(prompts, rows))
            path = parts / f"{batch:06d}.safetensors"
            if not path.exists():
                torch.manual_seed(random.Random(f"{seed} {batch}").getrandbits(63))
                save_documents(_generate(model, tokenizer, asked, length), path)
            new = load_documents(path)
            documents += new
            added = sum(len(document) for document in new)
            written += added
            bar.update(added)
    return documents


def prompts(tokenizer: Any, documents: Sequence[torch.Tensor], seed: int) -> Iterator[torch.Tensor]:
    """Endless prompts for the teacher: beginnings of documents and chat requests in turn.

    Without ``documents`` a few fixed openings and questions, and the bare begin token, repeat.
    """
    return (prompt.ids for prompt in tagged_prompts(tokenizer, documents, seed))


def sided_prompts(tokenizer: Any, text: Sides, every: int, seed: int) -> Iterator[torch.Tensor]:
    """The same, each ``every``-th from held-out documents alone, the others from those to train on.

    So that what the teacher writes has a side too, and takes nothing to the other one.
    """
    train = prompts(tokenizer, raw(text.train), seed)
    heldout = prompts(tokenizer, raw(text.heldout), seed)
    for place in itertools.count():
        yield next(train if place % every else heldout)


def tagged_prompts(
    tokenizer: Any, documents: Sequence[torch.Tensor], seed: int
) -> Iterator[Prompt]:
    """The same prompts, and which of them are chat."""
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


def _fixed_prompts(tokenizer: Any) -> list[Prompt]:
    """Token prompts, the three kinds in turn."""
    begin = Prompt(torch.tensor([_begin_token(tokenizer)]))
    found = []
    for opening, question in zip(PROSE_OPENINGS, QUESTIONS, strict=True):
        found += [
            Prompt(_begun(tokenizer, _encode(tokenizer, opening))),
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
    return Prompt(_begun(tokenizer, _encode(tokenizer, text)))


def _begun(tokenizer: Any, ids: list[int]) -> torch.Tensor:
    """A raw prompt as a server makes it of the same text."""
    begin = begin_token(tokenizer)
    return torch.tensor(ids if begin is None else [begin, *ids])


def _begin_token(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _chat(tokenizer: Any, question: str) -> Prompt:
    if not has_chat_template(tokenizer):
        return _raw(tokenizer, question)
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return Prompt(torch.tensor(_encode(tokenizer, text)), chat=True)


@torch.inference_mode()
def _generate(
    model: Any, tokenizer: Any, prompts: Sequence[torch.Tensor], length: int
) -> list[torch.Tensor]:
    """One batch of continuations, each cut after its end token; prompts are padded on the left."""
    ends = _end_tokens(model, tokenizer)
    pad = ends[0] if ends else 0
    longest = max(len(prompt) for prompt in prompts)
    ids_RL = torch.full((len(prompts), longest), pad)
    mask_RL = torch.zeros_like(ids_RL)
    for row, prompt in enumerate(prompts):
        ids_RL[row, longest - len(prompt) :] = prompt
        mask_RL[row, longest - len(prompt) :] = 1
    with _own_distribution(model, ends, pad):
        out_RL = model.generate(
            input_ids=ids_RL.to(model.device),
            attention_mask=mask_RL.to(model.device),
            max_new_tokens=length,
        ).cpu()
    return [
        torch.cat([prompt, _until_end(out_RL[row, longest:], ends)])
        for row, prompt in enumerate(prompts)
    ]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a text: the tokenizer's, then what else the checkpoint names."""
    named = model.generation_config.eos_token_id
    others = named if isinstance(named, list) else [named]
    return [end for end in dict.fromkeys([tokenizer.eos_token_id, *others]) if end is not None]


@contextmanager
def _own_distribution(model: Any, ends: list[int], pad: int) -> Iterator[None]:
    """``generate`` draws from the model's own distribution, as ``sample`` does with vLLM.

    What a checkpoint recommends (a repetition penalty, min-p) is set aside: ``generate`` fills in
    from the model's own settings whatever it is not told.
    """
    recommended = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
    try:
        yield
    finally:
        model.generation_config = recommended


def _until_end(tokens: torch.Tensor, ends: list[int]) -> torch.Tensor:
    found = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype)).nonzero()
    return tokens[: int(found[0]) + 1] if len(found) else tokens


def save_samples(documents: Iterator[Drawn], tokenizer: Any, path: Path) -> list[Drawn]:
    """Write documents as they come, as JSONL that is read back to the same token ids, atomically.

    A line has ``tokens``, whether they are ``chat``, and their ``text``, for people and as a check
    of the tokenizer that reads them.  Returns what was written.
    """
    written = []

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            for document in documents:
                ids = document.ids.tolist()
                record = {"tokens": ids, "chat": document.chat, "text": decode(tokenizer, ids)}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                written.append(document)

    write_atomically(path, write)
    return written
