"""vLLM engines for the benchmarks, in this process: one for a whole family, or a plain one.

The family's engine can be told to run single-size steps in turn, for comparison; a server never
does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # read when vLLM is imported
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # plans are carried by the V1 runner
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # or attention in float32 would be in tf32
os.environ.setdefault("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")  # graphs of prompts, in our engines

import torch

from bench.expected import TOKENS
from boomerang_core.checkpoint import teacher_folder
from boomerang_core.family import Family
from server.engine import register
from server.engine.loader import engine_arguments
from server.engine.scheduler import BoomerangAsyncScheduler, BoomerangScheduler
from server.engine.sizes import SIZE_KEY

LIMITS: dict[str, Any] = {
    # what vLLM wants to find free on a GPU; here several engines share one
    **({"gpu_memory_utilization": 0.2} if torch.cuda.is_available() else {}),
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 16,
    "block_size": 32,
    "kv_cache_memory_bytes": 256 << 20,
    "skip_tokenizer_init": True,
    "seed": 0,
}

_FEW_LOGITS = 64  # so that choosing among them takes no time

Request = tuple[int | None, list[int]]
"""A size, None in a plain engine, and the prompt's tokens."""


class Engine:
    """Greedy answers, end tokens ignored."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.cached_tokens: list[int] = []
        """Prompt tokens that the last ``generate`` found in the prefix cache, by request."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights that the routed model holds, each tensor once."""
        return sum(self._llm.collective_rpc("resident_bytes"))

    def generate(self, requests: Sequence[Request], tokens: int = TOKENS) -> list[list[int]]:
        """All requests at once."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for _, prompt in requests],
            [_greedy(size, tokens) for size, _ in requests],
            use_tqdm=False,
        )
        self.cached_tokens = [output.num_cached_tokens for output in outputs]
        return [list(output.outputs[0].token_ids) for output in outputs]

    def seconds(self, requests: Sequence[Request], tokens: int) -> float:
        """Seconds in which all requests, sent at once, have their answers."""
        start = time.perf_counter()
        self.generate(requests, tokens)
        return time.perf_counter() - start

    def skip_model(self) -> None:
        """From now on the model does nothing, and a step is what is done around it."""
        runner = self._llm.llm_engine.model_executor.driver_worker.worker.model_runner
        model, width = runner.get_model(), runner.model_config.get_hidden_size()
        like = {"dtype": runner.dtype, "device": runner.device}

        def forward(input_ids: Any, positions: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return torch.zeros(positions.shape[0], width, **like)

        def logits(hidden_states: torch.Tensor) -> torch.Tensor:
            return torch.zeros(hidden_states.shape[0], _FEW_LOGITS, **like)

        model.forward, model.compute_logits = forward, logits

    @property
    def compile_seconds(self) -> float:
        """Seconds in which the routed model's segments were traced and compiled."""
        return float(self._llm.collective_rpc("compile_seconds")[0])

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Meanwhile, every step runs requests of one size only, the sizes in turn."""
        scheduler = self._llm.llm_engine.engine_core.engine_core.scheduler
        assert isinstance(scheduler, TurnTakingScheduler)
        scheduler.in_turn = True
        try:
            yield
        finally:
            scheduler.in_turn = False

    def staggered(self, requests: Sequence[Request], tokens: int = TOKENS) -> list[list[int]]:
        """One more request joins at every second step, so that prefills meet decodes."""
        core = self._llm.llm_engine
        waiting = list(enumerate(requests))
        answers: dict[str, list[int]] = {}
        step = 0
        while waiting or core.has_unfinished_requests():
            if waiting and step % 2 == 0:
                place, (size, prompt) = waiting.pop(0)
                core.add_request(str(place), {"prompt_token_ids": prompt}, _greedy(size, tokens))
            for output in core.step():
                if output.finished:
                    answers[output.request_id] = list(output.outputs[0].token_ids)
            step += 1
        return [answers[str(place)] for place in range(len(requests))]

    def at_once(self, requests: Sequence[Request]) -> int:
        """How many of the requests one step takes up; then all are ended."""
        core = self._llm.llm_engine
        names = [
            core.add_request(str(place), {"prompt_token_ids": prompt}, _greedy(size, 2))
            for place, (size, prompt) in enumerate(requests)
        ]
        core.step()
        running = len(core.engine_core.engine_core.scheduler.running)
        core.abort_request(names, internal=True)
        return running


class TurnTakingScheduler(BoomerangScheduler):
    """Where `in_turn` is set, holds back all requests of a step but those of one size."""

    running: list[Any]
    in_turn = False
    _turn = -1

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's, on the requests whose turn it is."""
        if not self.in_turn:
            return super().schedule(*args, **kwargs)
        sizes = {self.size_of(request) for request in (*self.running, *self.waiting)}
        if len(sizes) < 2:
            return super().schedule(*args, **kwargs)
        self._turn = min((size for size in sizes if size > self._turn), default=min(sizes))
        running, waiting = self._held(self.running), self._held(self.waiting)
        self.running = [request for request in self.running if request not in running]
        self.waiting.remove_requests(waiting)
        self._make_room(-len(running))
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self._make_room(len(running))
            self.running += running
            self.waiting.prepend_requests(reversed(waiting))

    def _make_room(self, requests: int) -> None:
        """Let so many more requests run."""
        self.max_num_running_reqs += requests
        self.max_num_active_reqs += requests

    def _held(self, requests: Iterable[Any]) -> list[Any]:
        return [request for request in requests if self.size_of(request) != self._turn]


class AheadTurnTakingScheduler(TurnTakingScheduler, BoomerangAsyncScheduler):
    """The same, where a step is scheduled while the one before it runs."""


def routed_engine(
    family: Family,
    merge: bool = False,
    compiled: bool = False,
    graphs: bool | None = None,
    prompt_graphs: bool = True,
    **limits: Any,
) -> Engine:
    """One engine for every size of a family; `limits` over those of `LIMITS`."""
    from vllm import LLM

    register()
    with nullcontext() if prompt_graphs else _no_broken_graphs():
        arguments = engine_arguments(
            family.merged_when_read() if merge else family,
            teacher_folder(family),
            compiled=compiled,
            graphs=graphs,
            **{**LIMITS, **limits},
        )
        turns = AheadTurnTakingScheduler if arguments["async_scheduling"] else TurnTakingScheduler
        scheduler = f"{turns.__module__}.{turns.__name__}"
        return Engine(LLM(**{**arguments, "scheduler_cls": scheduler}))


def plain_engine(folder: Path, **limits: Any) -> Engine:
    """Plain vLLM on a checkpoint; `limits` over those of `LIMITS`."""
    from vllm import LLM

    with _no_broken_graphs():
        return Engine(LLM(model=str(folder), **{"enforce_eager": True, **LIMITS, **limits}))


@contextmanager
def _no_broken_graphs() -> Iterator[None]:
    """Meanwhile, engines are built as without that variable, vLLM's default."""
    from vllm.envs import disable_envs_cache, enable_envs_cache

    name = "VLLM_USE_BREAKABLE_CUDAGRAPH"
    ours = os.environ[name]
    disable_envs_cache()  # an engine keeps what it has read
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = ours
        disable_envs_cache()
        enable_envs_cache()


def _greedy(size: int | None, tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0,
        max_tokens=tokens,
        ignore_eos=True,
        detokenize=False,
        extra_args=None if size is None else {SIZE_KEY: size},
    )
