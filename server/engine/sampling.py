"""Text that a teacher writes itself, by plain vLLM: its continuations of many prompts at once."""

import hashlib
import json
import math
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import torch

from boomerang_core.checkpoint import load_config
from boomerang_core.checkpoint_files import checkpoint_sha256
from boomerang_core.distill.prompts import Prompt
from boomerang_core.errors import DataError
from boomerang_core.finished import read_finished, write_finished
from boomerang_core.text.documents import Drawn
from server.engine import compat
from server.engine.compat import LLM, SamplingParams

PROMPT_TOKENS = 1024
"""Longer prompts are passed over; ours are a few hundred at most, with the chat template."""

ROUND = 4096
"""Prompts that vLLM is given at once; it runs as many at a time as its KV cache holds."""

_CPU_KV_CACHE = 1 << 30

Asked = tuple[list[int], int]
"""A prompt's token ids, and the seed of its continuation."""


class Sampler:
    """A teacher that continues prompts at temperature 1, in vLLM.

    Args:
        teacher_dir: the teacher as a Hugging Face folder.
        length: the most tokens that it adds to a prompt.
        vocabulary: tokens that its tokenizer knows; the padding of a checkpoint's is cut off.
        end: the token that ends a document, None where the tokenizer has none.
        kv_cache_bytes: memory for the KV cache; None is what the GPU has left, 1 GiB on a CPU.
        **limits: further arguments of `vllm.LLM`.

    Raises `CheckpointError`, `ArchitectureError`, and vLLM's own errors.
    """

    def __init__(
        self,
        teacher_dir: Path,
        length: int,
        vocabulary: int,
        end: int | None,
        kv_cache_bytes: int | None = None,
        **limits: Any,
    ) -> None:
        compat.check_version()
        on_cpu = compat.platform() == "cpu"
        self._teacher_dir = teacher_dir
        self._length = length
        self._vocabulary = vocabulary
        self._end = end
        positions = load_config(teacher_dir).max_position_embeddings
        self._max_model_len = min(positions, PROMPT_TOKENS + length)
        self._engine = LLM(
            model=str(teacher_dir),
            max_model_len=self._max_model_len,
            kv_cache_memory_bytes=kv_cache_bytes or (_CPU_KV_CACHE if on_cpu else None),
            enforce_eager=on_cpu,
            # On a CPU, vLLM 0.32 cannot rewind the seeded generator of a prompt that it splits.
            enable_chunked_prefill=False,
            **limits,
        )

    def documents(
        self,
        prompts: Iterator[Prompt],
        num_tokens: int,
        seed: int,
        source: str,
        parts: Path | None = None,
    ) -> Iterator[Drawn]:
        """Documents, each a prompt and its continuation, until they hold ``num_tokens``.

        ``source`` is what they are counted as.  Each round of prompts stays in the folder
        ``parts``, and is not written again where it is there.  Raises `DataError` where no prompt
        fits, or for a part that is something else.
        """
        seeds = random.Random(seed)
        tokens = 0
        for number in count():
            if tokens >= num_tokens:
                return
            wanted = math.ceil((num_tokens - tokens) / self._length)
            chosen = self._fitting(list(islice(prompts, min(wanted, ROUND))))
            asked = [(prompt.ids.tolist(), seeds.getrandbits(31)) for prompt in chosen]
            part = None if parts is None else parts / f"{number:06d}.json"
            for prompt, ids in zip(chosen, self._round(asked, part), strict=True):
                if tokens >= num_tokens:
                    return
                document = torch.cat([prompt.ids, torch.tensor(ids, dtype=torch.int64)])
                tokens += len(document)
                yield Drawn(source, prompt.chat, document)

    def _fitting(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        fitting = [prompt for prompt in prompts if len(prompt.ids) < self._max_model_len]
        if not fitting:
            shortest = min(len(prompt.ids) for prompt in prompts)
            raise DataError(
                f"prompts have {shortest} tokens and more; the limit is {self._max_model_len - 1}"
            )
        return fitting

    def _round(self, asked: Sequence[Asked], part: Path | None) -> list[list[int]]:
        """What the teacher adds to each prompt; kept in the file `part`, or taken from it."""
        if part is None:
            return self._continue(asked)
        settings = {
            "teacher": self._teacher,
            "length": self._length,
            "vocabulary": self._vocabulary,
            "end": self._end,
            "asked": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        }
        found: list[list[int]] | None = read_finished(part, settings)
        if found is None:
            found = self._continue(asked)
            write_finished(part, settings, found)
        return found

    @cached_property
    def _teacher(self) -> str:
        return checkpoint_sha256(self._teacher_dir)

    def _continue(self, asked: Sequence[Asked]) -> list[list[int]]:
        """The token ids that the teacher adds to each prompt, up to and with its end token."""
        outputs = self._engine.generate(
            [{"prompt_token_ids": ids} for ids, _ in asked],
            [self._params(seed) for _, seed in asked],
        )
        return [
            list(takewhile(lambda token: token < self._vocabulary, output.outputs[0].token_ids))
            for output in outputs
        ]

    def _params(self, seed: int) -> Any:
        """A seed for each prompt, so that its text does not depend on what runs beside it."""
        return SamplingParams(
            temperature=1.0,
            max_tokens=self._length,
            stop_token_ids=[] if self._end is None else [self._end],
            seed=seed,
            detokenize=False,
        )
