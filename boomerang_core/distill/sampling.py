"""Text that the teacher writes itself, with transformers.

Shapes: R rows, L tokens a row.  A prompt or a document is a 1-D int64 tensor of token ids.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import GenerationConfig

from boomerang_core.files import write_atomically
from boomerang_core.text.documents import Drawn, decode, load_documents, save_documents


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
    """Let the teacher continue `prompts` at temperature 1 until there are `num_tokens`.

    Of the checkpoint's own settings only the end tokens count.  `length` is the most that it adds
    to a prompt; `rows` prompts run at once.  Each such batch has a seed of its own and stays in the
    folder `parts`, so a stopped run goes on to the same text.
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
            bar.update(min(added, num_tokens - bar.n))  # the last batch writes more than asked
    return documents


def save_samples(documents: Iterator[Drawn], tokenizer: Any, path: Path) -> list[Drawn]:
    """Write documents as they come, as JSONL that is read back to the same token ids, atomically.

    A line has `tokens`, whether they are `chat`, and their `text`, for people and as a check
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


def in_bfloat16(model: Any) -> Any:
    """A copy of the model in bfloat16, made without a second one in the model's own format."""
    copies: dict[int, Any] = {  # what `deepcopy` puts for each parameter; a tied one is one
        id(parameter): nn.Parameter(parameter.to(torch.bfloat16, copy=True), requires_grad=False)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, copies).to(torch.bfloat16)  # buffers are left, which are small


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
    """`generate` draws from the model's own distribution, as `sample` does with vLLM.

    What a checkpoint recommends (a repetition penalty, min-p) is set aside: `generate` fills in
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
