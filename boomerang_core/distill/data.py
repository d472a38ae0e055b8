"""Text to distil on: local documents, and documents that the teacher writes itself.

Shapes: R rows, L tokens a row.  A document is a 1-D int64 tensor of token ids.
"""

from __future__ import annotations

import html
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from boomerang_core.distill.stream import batches
from boomerang_core.errors import DataError
from boomerang_core.provenance import save_tensors

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
PYTHON_REFERENCE = "python-reference"
"""The language reference that comes with every Python: prose that needs no network."""

PASSAGES = 1024
"""Passages that are tokenised at once: a tokenizer uses all cores on many, one on one."""

_HTML = {".html", ".xhtml", ".htm"}
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Rows:
    """Token rows (R, L) cut from documents; no document is on both sides."""

    train: torch.Tensor
    heldout: torch.Tensor


def read_documents(
    sources: Sequence[str], tokenizer: Any, num_tokens: int, seed: int
) -> list[torch.Tensor]:
    """Tokenise passages of local text in random order until they hold ``num_tokens``.

    A source is a file (HTML loses its tags) or ``PYTHON_REFERENCE``.  A passage is a run of
    paragraphs of about 2,000 characters.  Raises DataError for a file that cannot be read.
    """
    passages = [passage for source in sources for passage in _passages(_read(source))]
    random.Random(seed).shuffle(passages)
    documents: list[torch.Tensor] = []
    tokens = 0
    for part in batches(len(passages), PASSAGES):
        for ids in tokenizer(passages[part], add_special_tokens=False)["input_ids"]:
            if tokens >= num_tokens:
                return documents
            documents.append(torch.tensor(ids))
            tokens += len(ids)
    return documents


def _read(source: str) -> str:
    if source == PYTHON_REFERENCE:
        return "\n\n".join(topics.values())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read text from {path}: {error}") from error
    return html.unescape(_TAG.sub(" ", text)) if path.suffix in _HTML else text


def _encode(tokenizer: Any, text: str) -> torch.Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])


def _passages(text: str, characters: int = 2000) -> Iterator[str]:
    passage = ""
    for paragraph in re.split(r"\n\s*\n", text):
        passage += re.sub(r"[ \t]+", " ", paragraph).strip() + "\n\n"
        if len(passage) >= characters:
            yield passage.strip()
            passage = ""
    if passage.strip():
        yield passage.strip()


def sample_documents(
    model: Any,
    tokenizer: Any,
    prompts: Iterator[torch.Tensor],
    num_tokens: int,
    seed: int,
    length: int = 192,
    rows: int = 64,
) -> list[torch.Tensor]:
    """Let the teacher continue ``prompts`` at temperature 1 until there are ``num_tokens``.

    ``length`` is the most that it adds to a prompt; ``rows`` prompts run at once.
    """
    torch.manual_seed(seed)
    documents: list[torch.Tensor] = []
    with tqdm(total=num_tokens, desc="teacher writes text", unit="tok") as bar:
        while bar.n < num_tokens:
            new = _generate(model, tokenizer, list(itertools.islice(prompts, rows)), length)
            documents += new
            bar.update(sum(len(document) for document in new))
    return documents


def prompts(tokenizer: Any, documents: Sequence[torch.Tensor], seed: int) -> Iterator[torch.Tensor]:
    """Endless prompts for the teacher: beginnings of documents and chat requests in turn.

    Without ``documents`` a few fixed openings and questions, and the bare begin token, repeat.
    """
    fixed = itertools.cycle(_fixed_prompts(tokenizer))
    if not documents:
        yield from fixed
    draw = random.Random(seed)
    while True:
        yield next(fixed)
        for _ in range(8):
            yield draw.choice(documents)[: draw.randrange(8, 33)]
            passage = tokenizer.decode(draw.choice(documents)[: draw.randrange(32, 97)])
            yield _chat(tokenizer, draw.choice(REQUESTS).format(passage))


def _fixed_prompts(tokenizer: Any) -> list[torch.Tensor]:
    """Token prompts, the three kinds in turn."""
    begin = torch.tensor([_begin_token(tokenizer)])
    found = []
    for opening, question in zip(PROSE_OPENINGS, QUESTIONS, strict=True):
        found += [_encode(tokenizer, opening), _chat(tokenizer, question), begin]
    return found


def _begin_token(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _chat(tokenizer: Any, question: str) -> torch.Tensor:
    if getattr(tokenizer, "chat_template", None) is None:
        return _encode(tokenizer, question)
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _encode(tokenizer, text)


@torch.inference_mode()
def _generate(
    model: Any, tokenizer: Any, prompts: Sequence[torch.Tensor], length: int
) -> list[torch.Tensor]:
    """One batch of continuations, each cut after its end token; prompts are padded on the left."""
    end = tokenizer.eos_token_id
    pad = end if end is not None else 0
    longest = max(len(prompt) for prompt in prompts)
    ids_RL = torch.full((len(prompts), longest), pad)
    mask_RL = torch.zeros_like(ids_RL)
    for row, prompt in enumerate(prompts):
        ids_RL[row, longest - len(prompt) :] = prompt
        mask_RL[row, longest - len(prompt) :] = 1
    out_RL = model.generate(
        input_ids=ids_RL.to(model.device),
        attention_mask=mask_RL.to(model.device),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=length,
        pad_token_id=pad,
    ).cpu()
    return [
        torch.cat([prompt, _until_end(out_RL[row, longest:], end)])
        for row, prompt in enumerate(prompts)
    ]


def _until_end(tokens: torch.Tensor, end: int | None) -> torch.Tensor:
    found = (tokens == end).nonzero() if end is not None else tokens.new_empty(0)
    return tokens[: int(found[0]) + 1] if len(found) else tokens


def split_rows(
    documents: Sequence[torch.Tensor], length: int, heldout_every: int, seed: int
) -> Rows:
    """Set every ``heldout_every``-th document aside, then pack each side into rows of ``length``.

    Raises DataError when a side has less than one row.
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    heldout = [documents[i] for i in order[::heldout_every]]
    train = [documents[i] for place, i in enumerate(order) if place % heldout_every]
    return Rows(pack(train, length, "training"), pack(heldout, length, "held-out"))


def pack(documents: Sequence[torch.Tensor], length: int, side: str) -> torch.Tensor:
    """Concatenate documents and cut whole rows of ``length`` tokens (R, L); the rest is dropped."""
    tokens = torch.cat([*documents, torch.empty(0, dtype=torch.int64)])
    if len(tokens) < length:
        raise DataError(f"{side} text has {len(tokens)} tokens, fewer than one row of {length}")
    return tokens[: len(tokens) // length * length].view(-1, length)


def save_documents(documents: Sequence[torch.Tensor], path: Path) -> None:
    """Keep documents as two flat tensors, atomically."""
    lengths = torch.tensor([len(document) for document in documents])
    save_tensors({"tokens": torch.cat(list(documents)), "lengths": lengths}, path)


def load_documents(path: Path) -> list[torch.Tensor]:
    """Inverse of :func:`save_documents`."""
    stored = load_file(path)
    return list(stored["tokens"].split(stored["lengths"].tolist()))
