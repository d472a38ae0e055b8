"""vLLM engines for the benchmarks, in this process: one for a whole family, or a plain one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # read when vLLM is imported
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from boomerang_core.checkpoint import teacher_folder
from boomerang_core.family import Family
from server.engine import register
from server.engine.sizes import SIZE_KEY

TOKENS = 16
LIMITS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 16,
    "block_size": 32,
    "kv_cache_memory_bytes": 256 << 20,
    "skip_tokenizer_init": True,
    "seed": 0,
}

Request = tuple[int | None, list[int]]
"""A size, None in a plain engine, and the prompt's tokens."""


class Engine:
    """Greedy answers of ``TOKENS`` tokens, end tokens ignored."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.cached_tokens: list[int] = []
        """Prompt tokens that the last ``generate`` found in the prefix cache, by request."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights that the routed model holds, each tensor once."""
        return sum(self._llm.collective_rpc("resident_bytes"))

    def generate(self, requests: Sequence[Request]) -> list[list[int]]:
        """All requests at once."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for _, prompt in requests],
            [_greedy(size) for size, _ in requests],
            use_tqdm=False,
        )
        self.cached_tokens = [output.num_cached_tokens for output in outputs]
        return [list(output.outputs[0].token_ids) for output in outputs]

    def staggered(self, requests: Sequence[Request]) -> list[list[int]]:
        """One more request joins at every second step, so that prefills meet decodes."""
        core = self._llm.llm_engine
        waiting = list(enumerate(requests))
        answers: dict[str, list[int]] = {}
        step = 0
        while waiting or core.has_unfinished_requests():
            if waiting and step % 2 == 0:
                place, (size, prompt) = waiting.pop(0)
                core.add_request(str(place), {"prompt_token_ids": prompt}, _greedy(size))
            for output in core.step():
                if output.finished:
                    answers[output.request_id] = list(output.outputs[0].token_ids)
            step += 1
        return [answers[str(place)] for place in range(len(requests))]


def routed_engine(family: Family) -> Engine:
    """One engine for every size of a family."""
    from vllm import LLM

    from server.engine.loader import engine_arguments

    register()
    return Engine(LLM(**engine_arguments(family, teacher_folder(family), **LIMITS)))


def plain_engine(folder: Path) -> Engine:
    """Plain vLLM on a checkpoint."""
    from vllm import LLM

    return Engine(LLM(model=str(folder), enforce_eager=True, **LIMITS))


def _greedy(size: int | None) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0,
        max_tokens=TOKENS,
        ignore_eos=True,
        detokenize=False,
        extra_args=None if size is None else {SIZE_KEY: size},
    )
