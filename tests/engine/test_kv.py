"""A request holds KV blocks only in the groups of layers that it runs, and answers the same."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from bench.kv import run
from boomerang_core.kv_groups import KVGroups, choose_groups, kv_bytes, layer_ranks
from boomerang_core.memory_plan import KV_BLOCK, kv_bytes_for
from server.engine import kv
from server.engine.sizes import SIZE_KEY
from tests.engine.conftest import LIMITS, token_prompts
from tests.engine.families import LAYERS, VOCABULARY, TinyFamily
from tests.engine.test_equality import BATCH, TOKENS, expected, greedy, parameters, prompts

pytestmark = pytest.mark.engine

BLOCK = LIMITS["block_size"]


@pytest.fixture(scope="module", params=["full-own-ends", "lowrank"])
def tiny(request: pytest.FixtureRequest, build: Callable[[str], TinyFamily]) -> TinyFamily:
    return build(request.param)


@pytest.fixture(scope="module")
def groups(tiny: TinyFamily) -> KVGroups:
    """A group for each layer."""
    return choose_groups(layer_ranks(tiny.family.design), most=LAYERS)


@pytest.fixture(scope="module", params=["BoomerangScheduler", "BoomerangAsyncScheduler"])
def engine(request: pytest.FixtureRequest, tiny: TinyFamily, keep: Callable[[Any], Any]) -> Any:
    """With a group for each layer, and room for one and a half requests of the greatest length.

    With either scheduler; on a CPU vLLM never schedules a step before the last one is done.
    """
    from vllm import LLM

    from server.engine.loader import engine_arguments

    blocks = LAYERS * (LIMITS["max_model_len"] // BLOCK) * 3 // 2
    arguments = engine_arguments(tiny.family, tiny.teacher_dir, **LIMITS)
    arguments["scheduler_cls"] = f"server.engine.scheduler.{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv, "choose_groups", partial(choose_groups, most=LAYERS))
        return keep(LLM(**arguments, num_gpu_blocks_override=blocks))


def scheduler_of(engine: Any) -> Any:
    return engine.llm_engine.engine_core.engine_core.scheduler


def assert_all_free(engine: Any) -> None:
    manager = scheduler_of(engine).kv_cache_manager
    assert manager.block_pool.get_num_free_blocks() == manager.kv_cache_config.num_blocks - 1
    assert not any(each.req_to_blocks for each in manager.coordinator.single_type_managers)
    assert not any(each.num_cached_block for each in manager.coordinator.single_type_managers)


def test_the_engine_has_the_groups_that_were_chosen(groups: KVGroups, engine: Any) -> None:
    found = scheduler_of(engine).kv_cache_manager.kv_cache_config.kv_cache_groups
    assert [len(group.layer_names) for group in found] == [1] * LAYERS
    assert tuple(group.kv_cache_spec.rank for group in found) == groups.ranks
    layers = [int(group.layer_names[0].split(".")[2]) for group in found]
    assert [(layer,) for layer in layers] == list(groups.layers)


def test_no_manager_is_built_that_cannot_tell_sizes() -> None:
    with pytest.raises(TypeError, match="size_of"):
        kv.DepthKVCacheManager()


def test_metadata_of_all_groups_is_built_once_where_a_builder_can_copy_it(
    tiny: TinyFamily, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlashAttention's builder can, and this CPU's is made to: only block tables differ."""
    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    builder = type(runner.attn_groups[0][0].get_metadata_builder())
    build, built = builder.build, []

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        built.append(self)
        return build(self, *args, **kwargs)

    def copied(self: Any, metadata: Any, blk_table: Any, slot_mapping: Any) -> Any:
        return replace(metadata, block_table=blk_table, slot_mapping=slot_mapping)

    monkeypatch.setattr(builder, "build", spy)
    monkeypatch.setattr(builder, "supports_update_block_table", True)
    monkeypatch.setattr(builder, "update_block_table", copied)
    teacher = tiny.sizes[-1]
    assert greedy(engine, BATCH[:1], [teacher]) == [expected(tiny, teacher)[0]]
    assert len(built) == TOKENS
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    assert greedy(engine, BATCH, sizes) == [
        expected(tiny, size)[place] for place, size in enumerate(sizes)
    ]


def test_each_request_holds_what_its_size_runs(
    tiny: TinyFamily, groups: KVGroups, engine: Any
) -> None:
    core, scheduler = engine.llm_engine, scheduler_of(engine)
    for size in tiny.sizes:
        prompt = token_prompts(prompts(1, seed=size, shortest=40, longest=40))[0]
        core.add_request(f"held-{size}", prompt, parameters(size))
    core.step()
    assert len(scheduler.running) == len(tiny.sizes)
    for request in scheduler.running:
        size = scheduler.size_of(request)
        per_group = scheduler.kv_cache_manager.get_block_ids(request.request_id)
        assert [len(ids) for ids in per_group] == [2 * (rank < size) for rank in groups.ranks]
        assert sum(len(ids) for ids in per_group) == 2 * groups.held(size)
    while core.has_unfinished_requests():
        core.step()
    assert_all_free(engine)


def test_blocks_are_thought_about_only_where_one_begins_or_ends(
    tiny: TinyFamily, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a decoding request filled is found by the next one."""
    asked: list[int] = []
    whole = kv.KVCacheManager.allocate_slots

    def spy(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(request.num_computed_tokens)
        return whole(self, request, *args, **kwargs)

    cached: list[int] = []
    cache = kv.KVCacheManager.cache_blocks

    def cache_spy(self: Any, request: Any, num_computed_tokens: int) -> None:
        cached.append(num_computed_tokens)
        cache(self, request, num_computed_tokens)

    monkeypatch.setattr(kv.KVCacheManager, "allocate_slots", spy)
    monkeypatch.setattr(kv.KVCacheManager, "cache_blocks", cache_spy)
    assert scheduler_of(engine).kv_cache_manager.reset_prefix_cache()
    prompt, size = prompts(1, seed=13, shortest=40, longest=40)[0], tiny.sizes[-1]
    many = parameters(size)
    many.max_tokens = 2 * BLOCK
    (result,) = engine.generate(token_prompts([prompt]), many, use_tqdm=False)
    assert asked == [0, 2 * BLOCK - 1, 2 * BLOCK, 3 * BLOCK - 1, 3 * BLOCK]
    assert len(cached) <= 2  # by a scheduler that works ahead, which asks for each of 64 tokens
    longer = prompt + list(result.outputs[0].token_ids)
    assert cached_tokens(engine, longer, size)[0] == 3 * BLOCK
    assert_all_free(engine)


def test_preempted_requests_answer_as_if_alone(
    tiny: TinyFamily, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen requests of all sizes that together outgrow the memory."""
    scheduler = scheduler_of(engine)
    preempted: list[str] = []
    preempt = scheduler._preempt_request

    def spy(request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        preempt(request, *args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", spy)
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    long = prompts(len(BATCH), seed=3, shortest=28, longest=31)  # outgrow their block on the way
    together = greedy(engine, long, sizes)
    assert preempted
    assert_all_free(engine)
    alone = [greedy(engine, [prompt], [size])[0] for prompt, size in zip(long, sizes, strict=True)]
    assert together == alone
    assert greedy(engine, BATCH, sizes) == [
        expected(tiny, size)[place] for place, size in enumerate(sizes)
    ]
    assert_all_free(engine)


UNUSUAL: tuple[dict[str, Any], ...] = (
    {"seed": 3, "temperature": 1.0, "top_p": 0.9, "n": 2},
    {"min_tokens": 9, "stop_token_ids": list(range(1, 200))},
    {"logit_bias": {7: 4.0, 9: 5.0}, "presence_penalty": 1.5},
    {"allowed_token_ids": list(range(40)), "repetition_penalty": 1.3},
    {"prompt_logprobs": 1},
)


def test_unusual_requests_answer_as_if_alone_where_others_are_cancelled(
    tiny: TinyFamily, engine: Any
) -> None:
    """In memory that is too small for all; every third is cancelled in its prompt or after."""
    core, asked, together = engine.llm_engine, {}, {}
    for index, prompt in enumerate(prompts(15, seed=4, shortest=100, longest=200)):
        params = SamplingParams(
            extra_args={SIZE_KEY: index % len(tiny.sizes)},
            max_tokens=TOKENS,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **{"temperature": 0.0, **UNUSUAL[index % len(UNUSUAL)]},
        )
        asked[f"unusual-{index}"] = (token_prompts([prompt])[0], params)
        core.add_request(f"unusual-{index}", token_prompts([prompt])[0], params.clone())
    cancelled = list(asked)[::3]
    while core.has_unfinished_requests():
        if cancelled:
            core.abort_request([cancelled[0]])
            del asked[cancelled.pop(0)]
        for output in core.step():
            together[output.request_id] = [list(each.token_ids) for each in output.outputs]
    assert_all_free(engine)
    for name, (prompt, params) in asked.items():
        (alone,) = engine.generate([prompt], params, use_tqdm=False)
        assert together[name] == [list(each.token_ids) for each in alone.outputs]


def cached_tokens(engine: Any, prompt: list[int], size: int) -> tuple[int, list[int]]:
    """Prompt tokens found in the prefix cache, and the answer."""
    (result,) = engine.generate(token_prompts([prompt]), parameters(size), use_tqdm=False)
    return result.num_cached_tokens, list(result.outputs[0].token_ids)


def test_only_the_groups_of_a_size_must_agree_on_a_prefix(tiny: TinyFamily, engine: Any) -> None:
    prompt = prompts(1, seed=9, shortest=70, longest=70)[0]
    manager = scheduler_of(engine).kv_cache_manager
    for size in tiny.sizes:
        assert manager.reset_prefix_cache()
        found, answer = cached_tokens(engine, prompt, size)
        assert found == 0
        assert cached_tokens(engine, prompt, size) == (64, answer)


def test_a_prefix_ends_where_any_of_a_sizes_groups_ends(tiny: TinyFamily, engine: Any) -> None:
    """The last group's second block is taken away: the teacher's size has one block left."""
    prompt = prompts(1, seed=11, shortest=70, longest=70)[0]
    core, scheduler = engine.llm_engine, scheduler_of(engine)
    manager = scheduler.kv_cache_manager
    core.add_request("evicted", token_prompts([prompt])[0], parameters(tiny.sizes[-1]))
    core.step()
    blocks = manager.get_block_ids(scheduler.running[0].request_id)[-1]
    while core.has_unfinished_requests():
        core.step()
    _, answer = cached_tokens(engine, prompt, tiny.sizes[-1])
    manager.evict_blocks({blocks[1]})
    assert cached_tokens(engine, prompt, tiny.sizes[-1]) == (32, answer)
    assert_all_free(engine)


def test_the_beginning_of_a_prompt_outlives_its_end(tiny: TinyFamily, engine: Any) -> None:
    """As many cached blocks are taken as there are groups: the last of each, not all of one."""
    prompt, size = prompts(1, seed=12, shortest=70, longest=70)[0], tiny.sizes[-1]
    manager = scheduler_of(engine).kv_cache_manager
    assert manager.reset_prefix_cache()
    _, answer = cached_tokens(engine, prompt, size)
    pool = manager.block_pool
    cached = 2 * LAYERS
    pool.free_blocks(pool.get_new_blocks(pool.get_num_free_blocks() - cached + LAYERS))
    assert cached_tokens(engine, prompt, size) == (32, answer)
    assert_all_free(engine)


def test_the_least_cache_that_we_state_is_enough_for_vllm(
    tiny: TinyFamily, keep: Callable[[Any], Any]
) -> None:
    """One request of the greatest length, in the largest blocks that vLLM has."""
    from vllm import LLM

    from server.engine.loader import engine_arguments

    per_token = kv_bytes(tiny.family.served_in(4))[-1]
    limits = {**LIMITS, "block_size": KV_BLOCK, "max_model_len": 256}
    limits["kv_cache_memory_bytes"] = kv_bytes_for(256, 1, per_token)
    engine = keep(LLM(**engine_arguments(tiny.family, tiny.teacher_dir, **limits)))
    prompt = token_prompts(prompts(1, seed=2, shortest=240, longest=240))
    assert len(engine.generate(prompt, parameters(tiny.sizes[-1]), use_tqdm=False)) == 1


@pytest.mark.slow
def test_the_benchmark_counts_what_fits(tiny: TinyFamily, groups: KVGroups) -> None:
    options = argparse.Namespace(kv_mib=1, tokens=60, vocabulary=VOCABULARY, pairs=2)
    report = run(tiny.family, options, **{**LIMITS, "max_model_len": 128})
    chosen = choose_groups(layer_ranks(tiny.family.design))
    layer_block = 2 * 4 * BLOCK * 32  # keys and values, float32, one head of 32

    def fit(layers_per_block: int, layers_held: int) -> int:
        blocks = (1 << 20) // (layer_block * layers_per_block) - 1
        return 60 * (blocks // (2 * layers_held // layers_per_block))

    assert report["layers_of_groups"] == [len(group) for group in chosen.layers]
    of_groups, of_one = report["tokens_held"]["groups"], report["tokens_held"]["one_group"]
    width = chosen.layers_per_block
    assert of_groups["student"] == fit(width, chosen.held(0))
    assert of_groups["teacher"] == fit(width, chosen.held(tiny.sizes[-1]))
    assert of_one["student"] == of_one["teacher"] == fit(LAYERS, LAYERS)
    for ratio in report["seconds_over_one_group"].values():
        assert 0 < ratio["low"] <= ratio["high"]
        assert ratio["n"] == 2
