"""Steps by masks, as CUDA graphs are captured and replayed, on a CPU without the graphs."""

from collections.abc import Callable
from typing import Any

import pytest

from server.engine.loader import engine_arguments
from tests.engine.conftest import LIMITS
from tests.engine.families import TinyFamily
from tests.engine.masked_worker import MaskedWorker

# The same tests once more, on this module's engine.
from tests.engine.test_equality import (
    test_a_batch_of_one_size,
    test_a_mixed_batch,
    test_no_size_means_the_teacher,
    test_one_at_a_time,
    test_prefix_cache_never_crosses_sizes,
    test_seeded_prompts_that_do_not_fit_a_step_together,
    test_staggered_arrivals_mix_prefill_and_decode,
)

pytestmark = pytest.mark.engine

__all__ = [
    "test_a_batch_of_one_size",
    "test_a_mixed_batch",
    "test_no_size_means_the_teacher",
    "test_one_at_a_time",
    "test_prefix_cache_never_crosses_sizes",
    "test_seeded_prompts_that_do_not_fit_a_step_together",
    "test_staggered_arrivals_mix_prefill_and_decode",
]

_ENGINES: dict[str, Any] = {}


@pytest.fixture
def engine(tiny: TinyFamily, keep: Callable[[Any], Any]) -> Any:
    """The family's engine, with the worker that takes steps by masks."""
    from vllm import LLM

    name = str(tiny.family.root)
    if name not in _ENGINES:
        arguments = engine_arguments(tiny.family, tiny.teacher_dir, **LIMITS)
        worker = f"{MaskedWorker.__module__}.{MaskedWorker.__name__}"
        _ENGINES[name] = keep(LLM(**{**arguments, "worker_cls": worker}))
    return _ENGINES[name]


def test_the_tests_above_did_take_steps_by_masks(engine: Any) -> None:
    assert engine.collective_rpc("masked_steps")[0] > 0
