"""Every size, alone and in any mix, answers as its own checkpoint does: fp32, token by token."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from boomerang_core.kv_groups import choose_groups, layer_ranks
from server.engine.sizes import SIZE_KEY
from tests.engine.conftest import token_prompts
from tests.engine.families import VOCABULARY, TinyFamily

pytestmark = pytest.mark.engine

TOKENS = 12
Start = Callable[[TinyFamily], Any]


def prompts(count: int, seed: int = 0, shortest: int = 3, longest: int = 40) -> list[list[int]]:
    generator = random.Random(seed)
    return [
        [
            generator.randrange(1, VOCABULARY - 1)
            for _ in range(generator.randint(shortest, longest))
        ]
        for _ in range(count)
    ]


def parameters(size: int | None, **more: Any) -> SamplingParams:
    extra = None if size is None else {SIZE_KEY: size}
    return SamplingParams(
        temperature=0,
        max_tokens=TOKENS,
        ignore_eos=True,
        detokenize=False,
        extra_args=extra,
        **more,
    )


def greedy(
    engine: Any, batch: Sequence[Sequence[int]], sizes: Sequence[int | None]
) -> list[list[int]]:
    results = engine.generate(
        token_prompts(batch), [parameters(size) for size in sizes], use_tqdm=False
    )
    return [list(result.outputs[0].token_ids) for result in results]


def reference(folder: Path, batch: Sequence[Sequence[int]]) -> list[list[int]]:
    """Greedy tokens of a plain checkpoint in transformers."""
    return greedy_reference(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), batch)


def greedy_reference(model: Any, batch: Sequence[Sequence[int]]) -> list[list[int]]:
    """Greedy tokens of a transformers model, one prompt at a time."""
    answers = []
    for prompt in batch:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


_EXPECTED: dict[tuple[Path, int], list[list[int]]] = {}
BATCH = prompts(16)


def expected(tiny: TinyFamily, size: int) -> list[list[int]]:
    """What `BATCH` must answer at a size; computed once."""
    key = (tiny.family.root, size)
    if key not in _EXPECTED:
        _EXPECTED[key] = reference(tiny.export_dir(size), BATCH)
    return _EXPECTED[key]


def test_sizes_disagree(tiny: TinyFamily) -> None:
    """Or the other tests would prove nothing."""
    answers = [expected(tiny, size) for size in tiny.sizes]
    for i, one in enumerate(answers):
        assert all(one != other for other in answers[:i])
    assert len({tuple(tokens) for tokens in answers[0]}) > len(BATCH) // 2


def test_one_at_a_time(tiny: TinyFamily, engine: Any) -> None:
    for size in tiny.sizes:
        got = [greedy(engine, [prompt], [size])[0] for prompt in BATCH[:4]]
        assert got == expected(tiny, size)[:4]


def test_a_batch_of_one_size(tiny: TinyFamily, engine: Any) -> None:
    for size in tiny.sizes:
        assert greedy(engine, BATCH, [size] * len(BATCH)) == expected(tiny, size)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_mixed_batch(tiny: TinyFamily, engine: Any, seed: int) -> None:
    order = list(range(len(BATCH)))
    random.Random(seed).shuffle(order)
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    random.Random(seed + 10).shuffle(sizes)
    got = greedy(engine, [BATCH[i] for i in order], sizes)
    assert got == [expected(tiny, size)[i] for i, size in zip(order, sizes, strict=True)]


def test_staggered_arrivals_mix_prefill_and_decode(tiny: TinyFamily, engine: Any) -> None:
    """A request of another size joins at every second step."""
    core = engine.llm_engine
    waiting = [(f"staggered-{i}", i, i % len(tiny.sizes)) for i in range(len(BATCH))]
    sizes = {name: (index, size) for name, index, size in waiting}
    answers: dict[str, list[int]] = {}
    step = 0
    while waiting or core.has_unfinished_requests():
        if waiting and step % 2 == 0:
            name, index, size = waiting.pop()
            core.add_request(name, token_prompts([BATCH[index]])[0], parameters(size))
        for output in core.step():
            if output.finished:
                answers[output.request_id] = list(output.outputs[0].token_ids)
        step += 1
    assert answers == {name: expected(tiny, size)[i] for name, (i, size) in sizes.items()}


def test_seeded_prompts_that_do_not_fit_a_step_together(tiny: TinyFamily, engine: Any) -> None:
    batch = prompts(8, seed=5, shortest=200, longest=200)
    sizes = tiny.family.design.ladder.num_sizes

    def sampled(requests: Sequence[int]) -> list[list[int]]:
        params = [parameters(request % sizes) for request in requests]
        for request, each in zip(requests, params, strict=True):
            each.temperature, each.seed = 1.0, request
        chosen = token_prompts([batch[request] for request in requests])
        results = engine.generate(chosen, params, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    together = sampled(range(8))
    assert together == [tokens for request in range(8) for tokens in sampled([request])]


def test_prefix_cache_never_crosses_sizes(tiny: TinyFamily, engine: Any) -> None:
    """One long prompt at all sizes, twice: the second time every size hits its own blocks."""
    prompt = prompts(1, seed=5, shortest=70, longest=70)[0]
    sizes = list(tiny.sizes)
    want = [reference(tiny.export_dir(size), [prompt])[0] for size in sizes]
    assert greedy(engine, [prompt] * len(sizes), sizes) == want
    results = engine.generate(
        token_prompts([prompt] * len(sizes)), [parameters(size) for size in sizes], use_tqdm=False
    )
    assert [list(result.outputs[0].token_ids) for result in results] == want
    assert all(result.num_cached_tokens >= 64 for result in results)


def test_no_size_means_the_teacher(tiny: TinyFamily, engine: Any) -> None:
    want = reference(tiny.teacher_dir, BATCH)
    assert greedy(engine, BATCH, [None] * len(BATCH)) == want
    assert greedy(engine, BATCH, [tiny.sizes[-1]] * len(BATCH)) == want


def test_plain_vllm_says_the_same(
    tiny: TinyFamily, engine: Any, plain: Callable[[Path], Any]
) -> None:
    for size in (0, 1, tiny.sizes[-1]):
        other = plain(tiny.export_dir(size))
        assert greedy(other, BATCH, [None] * len(BATCH)) == greedy(engine, BATCH, [size] * 16)


def test_prompt_logprobs_use_each_requests_own_head(
    tiny: TinyFamily, engine: Any, plain: Callable[[Path], Any]
) -> None:
    """Echo with logprobs, as evaluation harnesses ask for, in one mixed batch."""
    sizes = [0, 1, tiny.sizes[-1]]
    batch = BATCH[:3]
    got = engine.generate(
        token_prompts(batch),
        [parameters(size, prompt_logprobs=1) for size in sizes],
        use_tqdm=False,
    )
    for prompt, size, result in zip(batch, sizes, got, strict=True):
        other = plain(tiny.export_dir(size)).generate(
            token_prompts([prompt]), parameters(None, prompt_logprobs=1), use_tqdm=False
        )[0]
        pairs = zip(result.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True)
        for token, (ours, theirs) in zip(prompt[1:], pairs, strict=True):
            assert ours[token].logprob == pytest.approx(theirs[token].logprob, abs=1e-3)


@pytest.mark.parametrize("size", [-1, 4, 10**9, "1", 1.0, True, None, [1]])
def test_a_bad_size_is_refused_and_the_engine_lives(
    tiny: TinyFamily, engine: Any, size: object
) -> None:
    bad = SamplingParams(max_tokens=1, extra_args={SIZE_KEY: size})
    with pytest.raises(VLLMValidationError, match="must be an integer from 0 to 3"):
        engine.generate(token_prompts([[1, 2, 3]]), bad, use_tqdm=False)
    assert greedy(engine, [BATCH[0]], [1]) == [expected(tiny, 1)[0]]


def test_a_bad_size_that_slips_past_admission_runs_as_the_teacher(
    tiny: TinyFamily, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = engine.llm_engine.input_processor
    monkeypatch.setattr(processor, "validate_logits_processors_params", lambda params: None)
    bad = parameters(None)
    bad.extra_args = {SIZE_KEY: "nonsense"}
    result = engine.generate(token_prompts([BATCH[0]]), bad, use_tqdm=False)[0]
    assert list(result.outputs[0].token_ids) == expected(tiny, tiny.sizes[-1])[0]


def test_memory_each_tensor_once_and_no_kv_for_the_student(
    tiny: TinyFamily, engine: Any, plain: Callable[[Path], Any]
) -> None:
    family, shape = tiny.family, tiny.family.shape
    teacher = (
        shape.num_layers * shape.layer_params
        + shape.embedding_params * (1 if shape.tied else 2)
        + shape.norm_params
    )
    (resident,) = engine.collective_rpc("resident_bytes")
    student = 4 * family.student_params  # and the padding of unequal ranks in a fused map
    assert 4 * teacher + student <= resident <= 4 * teacher + student * 1.1
    blocks = engine.llm_engine.vllm_config.cache_config.num_gpu_blocks
    other = plain(tiny.export_dir(tiny.sizes[-1])).llm_engine.vllm_config.cache_config
    layers = choose_groups(layer_ranks(family.design)).layers_per_block
    assert blocks == pytest.approx(other.num_gpu_blocks * shape.num_layers / layers, abs=2)
