"""vLLM's scheduler, with the size in the prefix-cache key and in the hands of the KV managers.

Keys and values of one prompt differ between sizes, so two sizes must never share a cached block.
The size joins the request's cache salt here, inside the engine, where no caller can forget it.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from server.engine import compat
from server.engine.compat import AsyncScheduler, Scheduler
from server.engine.kv import DepthKVCacheManager
from server.engine.loader import design_of
from server.engine.sizes import remembered_size
from server.engine.steps import composition, put_step
from server.process.teardown import skip_teardown


class BoomerangScheduler(Scheduler):
    """For engines that schedule a step once the last one is done."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        design = design_of(vllm_config.model_config.hf_config)
        self._teacher_size = design.ladder.num_sizes - 1
        manager = partial(DepthKVCacheManager, size_of=self._size_by_id)
        with compat.kv_cache_manager_class(manager):
            super().__init__(vllm_config, *args, **kwargs)

    def size_of(self, request: Any) -> int:
        """The size that a request runs at."""
        return remembered_size(request, self._teacher_size)

    def _size_by_id(self, request_id: str) -> int:
        return self.size_of(self.requests[request_id])

    def add_request(self, request: Any) -> None:
        """Salt a new request with its size and hash its blocks again, then queue it."""
        if request.request_id not in self.requests:
            size = self.size_of(request)
            request.cache_salt = f"size={size};{request.cache_salt or ''}"
            request.block_hashes.clear()
            request.update_block_hashes()
        super().add_request(request)

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As vLLM's; the statistics of the step say which sizes ran in it."""
        scheduled = scheduler_output.num_scheduled_tokens
        rows, prompts = composition(
            (self.size_of(request), scheduled[name], before, request.num_prompt_tokens)
            for name, before in _computed_before(scheduler_output)
            if (request := self.requests.get(name))  # not one that was aborted meanwhile
        )
        by_client = super().update_from_output(scheduler_output, model_runner_output)
        for outputs in by_client.values():
            if outputs.scheduler_stats is not None:
                put_step(outputs.scheduler_stats, rows, prompts)
        return by_client

    def shutdown(self) -> None:
        """As vLLM's; the last of ours that it calls in the engine's process."""
        super().shutdown()
        skip_teardown()


class BoomerangAsyncScheduler(BoomerangScheduler, AsyncScheduler):
    """For engines with asynchronous scheduling."""


def _computed_before(scheduler_output: Any) -> Iterator[tuple[str, int]]:
    """Each request of a step, and its tokens that were computed before.

    The request itself may be ahead of the step: it counts one that is scheduled already.
    """
    for request in scheduler_output.scheduled_new_reqs:
        yield request.req_id, request.num_computed_tokens
    known = scheduler_output.scheduled_cached_reqs
    yield from zip(known.req_ids, known.num_computed_tokens, strict=True)
