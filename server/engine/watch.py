"""Follows requests and steps through vLLM's front end, for the load, the metrics and the log."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from boomerang_core.sizes import SizeTable
from server.engine.compat import StatLoggerBase
from server.engine.pulse import Pulse
from server.engine.steps import step_of
from server.load.chooser import Chooser
from server.load.costs import Step
from server.load.overlap import OverlappingSteps
from server.metrics import Finished, Metrics
from server.web.usage import Usage, usage


@dataclass(frozen=True)
class Watch:
    """What learns from the engine: the chooser and the metrics of one server."""

    table: SizeTable
    chooser: Chooser
    metrics: Metrics
    pulse: Pulse = field(default_factory=Pulse)

    def begin(self, size: int, choices: int = 1) -> "WatchedRequest":
        """A request for so many answers reaches the engine."""
        request = WatchedRequest(self, size, choices, usage.get() or Usage(), time.monotonic())
        self.chooser.load.arrived(size, request.spent.auto, request.began, choices)
        self.metrics.began(self.table.rows[size], choices)
        return request

    def stat_logger(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """The factory that vLLM takes in `stat_loggers`."""
        return StepWatch(vllm_config, engine_index, watch=self)


@dataclass
class WatchedRequest:
    """One request in the engine."""

    watch: Watch
    size: int
    choices: int
    spent: Usage
    began: float
    generated: int = 0
    last: Any = None

    def saw(self, output: Any, is_delta: bool) -> None:
        """An output came: of a stream the new tokens, else all of them so far."""
        count = sum(len(part.token_ids) for part in output.outputs)
        self.generated = self.generated + count if is_delta else max(self.generated, count)
        self.last = output

    def ended(self) -> None:
        """The request is over, whole or broken off."""
        now = time.monotonic()
        done = self._finished(now)
        whole = self.last is not None and self.last.finished
        lengths = (self._computed(), done.generated_tokens / self.choices) if whole else None
        load = self.watch.chooser.load
        if self.last is None:
            load.refused(self.choices)
        load.ended(self.size, now, lengths, self.choices)
        self.watch.metrics.ended(self.watch.table.rows[self.size], done, whole, self.choices)
        spent = self.spent
        spent.prompt_tokens += done.prompt_tokens
        spent.generated_tokens += done.generated_tokens
        spent.first_token_seconds = _later(spent.first_token_seconds, done.first_token_seconds)
        spent.token_seconds = _later(spent.token_seconds, done.token_seconds)

    def _computed(self) -> int:
        """Tokens of the prompt that the engine computed: steps are timed without cached ones."""
        return len(self.last.prompt_token_ids or ()) - (self.last.num_cached_tokens or 0)

    def _finished(self, now: float) -> Finished:
        """Latencies as vLLM measured them: the first token's here, the others' in the engine."""
        times = None if self.last is None else self.last.metrics
        prompt = 0 if self.last is None else len(self.last.prompt_token_ids or ())
        per_token = None
        if times is not None and times.num_generation_tokens > 1:
            span = times.last_token_ts - times.first_token_ts
            per_token = span / (times.num_generation_tokens - 1)
        return Finished(
            prompt_tokens=prompt,
            generated_tokens=self.generated,
            first_token_seconds=times.first_token_latency if times and self.generated else None,
            token_seconds=per_token,
            seconds=now - self.began,
        )


def _later(known: float | None, new: float | None) -> float | None:
    """The longer of two latencies: a request is as late as its latest part."""
    return new if known is None else known if new is None else max(known, new)


class StepWatch(StatLoggerBase):
    """vLLM calls `record` for each step of the engine."""

    def __init__(
        self,
        vllm_config: Any,
        engine_index: int = 0,
        *,
        watch: Watch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._clock = clock
        self._kv_bytes = _kv_bytes(vllm_config)
        self._overlapping = (
            OverlappingSteps(watch.chooser.costs) if _launches_ahead(vllm_config) else None
        )

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Learn from a step that followed another at once."""
        now = self._clock()
        if scheduler_stats is None:
            return
        began = self._watch.pulse.stepped(now, _goes_on(scheduler_stats))
        self._watch.chooser.load.queued(scheduler_stats.num_waiting_reqs)
        used = scheduler_stats.kv_cache_usage * self._kv_bytes
        rows, prompts = step_of(scheduler_stats)
        self._watch.metrics.stepped(self._by_name(rows), self._by_name(prompts), used)
        step = None if began is None else Step(rows, prompts, now - began)
        if self._overlapping is not None:
            self._overlapping.observe(step)
        elif step is not None:
            self._watch.chooser.costs.observe(step)

    def _by_name(self, counts: Mapping[int, int]) -> dict[str, int]:
        return {self._watch.table.rows[size].id: count for size, count in counts.items()}

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


def _launches_ahead(vllm_config: Any) -> bool:
    """Whether the thread that waits for a step launches the next: workers have their own."""
    alone = vllm_config.parallel_config.world_size == 1
    return bool(alone and vllm_config.scheduler_config.async_scheduling)


def _goes_on(scheduler_stats: Any) -> bool:
    return bool(scheduler_stats.num_running_reqs + scheduler_stats.num_waiting_reqs)


def _kv_bytes(vllm_config: Any) -> int:
    """Bytes of the KV cache, as the server asks for them: vLLM counts those of one rank."""
    ranks = int(vllm_config.parallel_config.tensor_parallel_size)
    return ranks * int(vllm_config.cache_config.kv_cache_memory_bytes or 0)
