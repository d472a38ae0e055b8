"""Steps by masks, as CUDA graphs are captured and replayed, on a CPU without the graphs."""

from collections.abc import Callable
from typing import Any

import pytest

from server.engine.loader import engine_arguments
from tests.engine import test_equality as equality
from tests.engine.conftest import LIMITS
from tests.engine.families import TinyFamily
from tests.engine.masked_worker import MaskedWorker
from tests.engine.test_equality import BATCH, expected, greedy

pytestmark = pytest.mark.engine

# The same tests once more, on this module's engines.
test_one_at_a_time = equality.test_one_at_a_time
test_a_batch_of_one_size = equality.test_a_batch_of_one_size
test_a_mixed_batch = equality.test_a_mixed_batch
test_no_size_means_the_teacher = equality.test_no_size_means_the_teacher
test_prefix_cache_never_crosses_sizes = equality.test_prefix_cache_never_crosses_sizes
test_seeded_prompts = equality.test_seeded_prompts_that_do_not_fit_a_step_together
test_staggered_arrivals = equality.test_staggered_arrivals_mix_prefill_and_decode

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


def test_it_is_masks_that_answer(tiny: TinyFamily, engine: Any) -> None:
    (before,) = engine.collective_rpc("masked_steps")
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    assert greedy(engine, BATCH, sizes) == [expected(tiny, s)[i] for i, s in enumerate(sizes)]
    (after,) = engine.collective_rpc("masked_steps")
    assert after > before
