"""vLLM's options that a server may be told leave each size's answers as they are."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from boomerang_core.errors import SettingsError, SizeError
from server.engine.options import check_parsers, refuse_unserved
from server.vllm_options import VllmOptions
from tests.engine.conftest import LIMITS, token_prompts
from tests.engine.families import LAYERS, TinyFamily
from tests.engine.test_equality import BATCH, expected, parameters

OPTIONS = VllmOptions(
    scheduling_policy="priority",
    enable_prefix_caching=False,
    stream_interval=3,
    max_num_batched_tokens=384,
    seed=5,
)


@pytest.mark.engine
def test_mixed_sizes_with_priorities_and_without_a_prefix_cache(
    build: Callable[[str], TinyFamily], keep: Callable[[Any], Any]
) -> None:
    """In memory that is too small for all, so that some are preempted by priority."""
    from vllm import LLM

    from server.engine.loader import engine_arguments

    tiny = build("lowrank")
    limits = {**LIMITS, **OPTIONS.for_engine()}
    arguments = engine_arguments(tiny.family, tiny.teacher_dir, **limits)
    engine = keep(LLM(**arguments, num_gpu_blocks_override=3 * LAYERS))
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    results = engine.generate(
        token_prompts(BATCH),
        [parameters(size) for size in sizes],
        priority=[-index for index in range(len(BATCH))],
        use_tqdm=False,
    )
    assert [list(result.outputs[0].token_ids) for result in results] == [
        expected(tiny, size)[place] for place, size in enumerate(sizes)
    ]
    assert not any(result.num_cached_tokens for result in results)


@pytest.mark.parametrize("field", ["tool_call_parser", "reasoning_parser"])
def test_a_parser_that_vllm_lacks_is_named(field: str) -> None:
    check_parsers(VllmOptions(tool_call_parser="hermes", reasoning_parser="qwen3"))
    with pytest.raises(SettingsError, match=f"vllm_options.{field}: there is no magic; there are"):
        check_parsers(VllmOptions.model_validate({field: "magic"}))


def request(**fields: Any) -> SimpleNamespace:
    """A body that asks for nothing, but for those fields."""
    return SimpleNamespace(**{"priority": 0, "vllm_xargs": None, **fields})


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
@pytest.mark.parametrize("within", [False, True])
def test_a_transfer_is_refused(name: str, within: bool) -> None:
    """Or a client could say how many tokens of a prompt were cached, for `auto` to learn from."""
    told = {name: {"do_remote_prefill": True, "remote_prefill_cached_tokens": 10**9}}
    asked = request(vllm_xargs=told) if within else request(**told)
    with pytest.raises(SizeError, match=f"no part in a transfer; leave {name} out"):
        refuse_unserved(asked, {}, OPTIONS)
    refuse_unserved(request(vllm_xargs={"other": 1}, **{name: None}), {}, OPTIONS)


@pytest.mark.parametrize("told", ["high", "1.5", "", str(2**63), "9" * 5000])
def test_a_priority_is_a_whole_number_that_the_engine_can_take(told: str) -> None:
    with pytest.raises(SizeError, match="whole number"):
        refuse_unserved(request(), {"x-vllm-priority": told}, OPTIONS)
    refuse_unserved(request(), {"x-vllm-priority": "-7"}, OPTIONS)
