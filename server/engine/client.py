"""vLLM's engine client, with the size of each request put into its sampling parameters.

vLLM's HTTP layer knows sizes as adapter names: a published name travels with the request as a
`LoRARequest`.  Here, the last place before the engine, the name becomes the size, and the adapter
is taken off: the engine serves none.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from boomerang_core.errors import EngineError
from boomerang_core.family import Family
from boomerang_core.memory_plan import Span
from boomerang_core.sizes import SizeTable
from server.engine.compat import (
    AsyncEngineArgs,
    AsyncLLM,
    EngineDeadError,
    LoRARequest,
    RequestOutputKind,
    RetryableRequestError,
    UsageContext,
    VLLMError,
)
from server.engine.loader import engine_arguments
from server.engine.options import check_parsers
from server.engine.sizes import SIZE_KEY
from server.engine.watch import Watch
from server.memory.residency import Residency
from server.tracing import NoSpans, SizeSpans, Spans
from server.vllm_options import NO_OPTIONS, VllmOptions

_TASKS = ("generate",)


def published_sizes(table: SizeTable) -> dict[str, Any]:
    """Model name → the adapter request that carries it; every size of the ladder."""
    return {
        table.model_id(row): LoRARequest(
            lora_name=table.model_id(row),
            lora_int_id=row.size + 1,  # vLLM refuses 0
            lora_path=f"boomerang://{table.model_id(row)}",
            base_model_name=table.family,
        )
        for row in table.rows
    }


class SizedEngineClient:
    """An `EngineClient`: everything is the inner client's but `generate`.

    Requests without a published name run at the default size, never at one that a client wrote
    into the sampling parameters.
    """

    def __init__(
        self,
        inner: Any,
        table: SizeTable,
        residency: Residency,
        watch: Watch | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._inner = inner
        self._watch = watch
        self._spans = spans or NoSpans()
        self._sizes: Mapping[str, int] = {table.model_id(row): row.size for row in table.rows}
        self._residency = residency

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: Any = None,
        trace_headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Any, None]:
        """Run a request at its size; the arguments and the outputs are those of vLLM.

        Of a stream vLLM would find what is wrong with it once 200 is sent, and log a traceback: it
        is asked before.  Raises what it finds.
        """
        if sampling_params.output_kind is RequestOutputKind.DELTA:
            self.check(request_id, prompt, sampling_params, options.get("data_parallel_rank"))
        options["trace_headers"] = trace_headers
        return self._outputs(prompt, sampling_params, request_id, lora_request, options)

    def check(
        self, request_id: str, prompt: Any, sampling_params: Any, rank: int | None = None
    ) -> None:
        """Raise what vLLM finds wrong with a request: a rendered prompt, and its parameters.

        vLLM does it again when it takes the request; template and tokenizer have run before, once.
        """
        self._inner.input_processor.process_inputs(
            request_id, prompt, sampling_params, _TASKS, data_parallel_rank=rank
        )

    async def _outputs(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        lora_request: Any,
        options: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        default = self._residency.policy.default_size
        size = default if lora_request is None else self._sizes[lora_request.lora_name]
        params = copy.copy(sampling_params)  # shared between the prompts of one request
        params.extra_args = {**(params.extra_args or {}), SIZE_KEY: size}
        watched = None if self._watch is None else self._watch.begin(size, params.n or 1)
        is_delta = params.output_kind is RequestOutputKind.DELTA
        spans = self._spans.around(size, options["trace_headers"])
        with self._residency.lease(size), spans as parent:
            options["trace_headers"] = parent
            outputs = self._inner.generate(prompt, params, request_id, **options)
            try:
                async for output in outputs:
                    if watched is not None:
                        watched.saw(output, is_delta)
                    yield output
            except EngineDeadError as error:
                raise self.dead_error from error
            finally:
                if watched is not None:
                    watched.ended()
                await outputs.aclose()  # aborts the request at once when the caller has gone

    @property
    def dead(self) -> bool:
        """Whether the engine process has died."""
        return bool(self._inner.errored)

    @property
    def progress(self) -> int | None:
        """The number of steps so far; None while no request waits for one, or weights are read."""
        if self._watch is None or self._watch.pulse.reading:
            return None
        owes = self._inner.output_processor.has_unfinished_requests()
        return self._watch.pulse.steps if owes else None

    @property
    def dead_error(self) -> RetryableRequestError:
        """What vLLM's routes raise once the engine is dead: ask again, of the server to come."""
        return RetryableRequestError("the engine has died; the server is stopping")

    async def check_health(self) -> bool:
        """Whether the engine is alive."""
        try:
            await self._inner.check_health()
        except VLLMError:
            return False
        return True

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop the engine's processes; `timeout` in seconds for what still runs.

        Call it outside the event loop, and once no request runs: none gets an answer any more.
        """
        self._stop_listening()
        self._inner.shutdown(timeout=timeout)
        # vLLM's finaliser shuts down once more, when the interpreter is half gone, and complains.
        self._inner.shutdown = _already_stopped

    def _stop_listening(self) -> None:
        """End vLLM's task that awaits outputs: it takes a stopping engine for a dead one.

        vLLM ends it too, but last, and it may by then have logged an `EngineDeadError`.
        """
        task = self._inner.output_handler
        if task is not None and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def hold_sizes(self, span: Span) -> int:
        """Hold the weights of those sizes and no others; bytes held, summed over the workers.

        Raises `EngineError` with the workers' reasons: no memory, or files that have changed.
        """
        args = (span.smallest, span.largest)
        reading = nullcontext() if self._watch is None else self._watch.pulse.reads_weights()
        try:
            with reading:
                replies = await self._inner.collective_rpc("hold_sizes", args=args)
        except Exception as error:  # vLLM's, of an engine that has died
            raise EngineError(f"the engine could not follow the budget: {error}") from error
        if reasons := [reply for reply in replies if isinstance(reply, str)]:
            told = "; ".join(dict.fromkeys(reasons))
            raise EngineError(f"the engine could not follow the budget: {told}")
        return sum(replies)

    async def resident_bytes(self) -> int:
        """Bytes of weights held, summed over the workers."""
        return sum(await self._inner.collective_rpc("resident_bytes"))

    async def log_statistics(self, seconds: float = 10.0) -> None:
        """Have vLLM log its line of statistics now and then, until cancelled; at level info."""
        while True:
            await asyncio.sleep(seconds)
            await self._inner.do_log_stats()

    async def compile_seconds(self) -> float:
        """Seconds in which segments were compiled, of the worker that took longest."""
        return float(max(await self._inner.collective_rpc("compile_seconds")))


def _already_stopped(timeout: float | None = None) -> None:
    """Nothing is left to stop."""


def start_engine(
    family: Family,
    teacher_dir: Path,
    residency: Residency,
    watch: Watch | None = None,
    compiled: bool = False,
    graphs: bool | None = None,
    options: VllmOptions = NO_OPTIONS,
    **limits: Any,
) -> SizedEngineClient:
    """Start vLLM on a family, in a process of its own; returns when it is loaded.

    `residency` says which sizes are loaded, `watch` is told of each request and each step,
    `compiled`, `graphs` and `limits` are those of `engine_arguments`; `options` are further
    arguments of vLLM, of which some are its app's.  Raises what that raises, `SettingsError`,
    vLLM's own errors, and `EngineError` where the engine's process ended before it was ready.
    """
    check_parsers(options)
    limits |= options.for_engine()
    sizes = residency.plan.span
    arguments = AsyncEngineArgs(
        **engine_arguments(
            family, teacher_dir, sizes=sizes, compiled=compiled, graphs=graphs, **limits
        )
    )
    stat_loggers = None if watch is None else [watch.stat_logger]
    spans = SizeSpans(family.table) if limits.get("otlp_traces_endpoint") else None
    try:
        inner = AsyncLLM.from_engine_args(
            arguments,
            stat_loggers=stat_loggers,
            # as `vllm serve`: how many tokens a step may take on which GPU hangs on it
            usage_context=UsageContext.OPENAI_API_SERVER,
        )
    except RuntimeError as error:
        raise EngineError("the engine could not start; what it printed above says why") from error
    return SizedEngineClient(inner, family.table, residency, watch, spans)
