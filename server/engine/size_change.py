"""On a worker: from the weights of some sizes to those of others, on every rank or on none."""

import ctypes
import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

from boomerang_core.errors import EngineError
from boomerang_core.memory_plan import Span
from server.engine.compat import get_tp_group, set_current_vllm_config

logger = logging.getLogger(__name__)


def hold_sizes(worker: Any, span: Span) -> int | str:
    """On a worker: hold what these sizes need, and nothing else; the bytes that it holds then.

    No request of another size may be running.  What went wrong comes back as text and is never
    raised: vLLM raises at the first rank that failed and leaves the replies of the others in their
    queues, where the next call, whatever it asks, would take them for its own.
    """
    try:
        with set_current_vllm_config(worker.vllm_config):
            return _hold_sizes(worker.model_runner, span)
    except Exception as error:
        logger.exception("could not change to %s", span)
        return str(error) or type(error).__name__


def _hold_sizes(runner: Any, span: Span) -> int:
    model = runner.get_model()
    was_frozen = gc.get_freeze_count() > 0
    try:
        _change(runner, model, span)
    finally:
        give_memory_back()
        if was_frozen and not gc.get_freeze_count():
            gc.freeze()  # vLLM froze its heap at the end of the start, and a capture thaws it
    return int(model.resident_bytes)


def _change(runner: Any, model: Any, span: Span) -> None:
    """Change to those sizes on every rank.

    Where that fails on one, all of them hold what they held before, or less if `span` is less: the
    server offers nothing else then, and memory for more would lie there unused.

    Tracing and the capture of graphs compute on all ranks together: the others would wait there for
    ever for one that could not read.  So the ranks agree before, and here: between two calls from
    outside, a step could replay graphs of weights that are gone.
    """
    before = model.held

    def hold() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a step that was scheduled ahead may still run on what goes
        model.hold(span)

    def make_ready() -> None:
        model.prepare()
        runner.sizes_changed()

    try:
        _on_all_or_none(hold)
        _on_all_or_none(make_ready)
    except Exception:
        is_less = span.smallest in before and span.largest in before
        model.hold(span if is_less else before)
        runner.drop_graphs()
        raise


def _on_all_or_none(action: Callable[[], None]) -> None:
    """Do it on every rank; raises on each of them where it fails on any."""
    failure: Exception | None = None
    try:
        action()
    except Exception as error:
        failure = error
    if not on_every_rank(failure is None):
        raise failure or EngineError("another rank could not change its weights")


def on_every_rank(fine: bool) -> bool:
    """Whether all is well on every rank; each of them must ask, and waits for the others."""
    votes = torch.tensor(int(fine))
    smallest = torch.distributed.ReduceOp.MIN
    torch.distributed.all_reduce(votes, smallest, group=get_tp_group().cpu_group)
    return bool(votes)


def give_memory_back() -> None:
    """Hand freed memory to the system: glibc and torch's allocators keep it otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
