"""The engine and its worker in processes of their own, as the server runs them."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from boomerang_core.errors import EngineError
from boomerang_core.memory_plan import Span
from server.engine.client import SizedEngineClient
from server.engine.compat import platform
from server.engine.loader import engine_arguments
from server.engine.sizes import SIZE_KEY
from server.memory.residency import Residency
from tests.engine.conftest import LIMITS, token_prompts
from tests.engine.families import TinyFamily
from tests.engine.test_equality import BATCH, expected, parameters

pytestmark = pytest.mark.engine


async def answer(engine: AsyncLLM, index: int, size: int) -> list[int]:
    params = parameters(size)
    params.output_kind = RequestOutputKind.FINAL_ONLY
    prompt: Any = token_prompts([BATCH[index]])[0]
    tokens: list[int] = []
    async for output in engine.generate(prompt, params, f"request-{index}"):
        tokens = list(output.outputs[0].token_ids)
    return tokens


async def session(tiny: TinyFamily, sizes: list[int], **limits: Any) -> list[list[int]]:
    """What an engine in processes of its own answers; a size that does not exist is refused."""
    arguments = engine_arguments(tiny.family, tiny.teacher_dir, **LIMITS, **limits)
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    try:
        bad: Any = SamplingParams(extra_args={SIZE_KEY: 99})
        with pytest.raises(VLLMValidationError, match="from 0 to 3"):
            await anext(engine.generate({"prompt_token_ids": [1, 2]}, bad, "bad"))
        return list(await asyncio.gather(*(answer(engine, i, s) for i, s in enumerate(sizes))))
    finally:
        engine.shutdown()


@pytest.mark.slow  # two ranks do the same, below
def test_spawned_processes_serve_mixed_sizes_and_survive_a_bad_one(
    build: Callable[[str], TinyFamily],
) -> None:
    """Needs the package installed: spawned processes find the plugin by its entry point."""
    tiny = build("full-own-ends")
    sizes = [index % len(tiny.sizes) for index in range(8)]
    got = asyncio.run(session(tiny, sizes))
    assert got == [expected(tiny, size)[index] for index, size in enumerate(sizes)]


async def changes(tiny: TinyFamily) -> None:
    """A change of the sizes that one of two ranks cannot follow, then one that both can."""
    small, whole = Span(0, 1), Span(0, 3)
    limits = {**LIMITS, "tensor_parallel_size": 2}
    arguments = engine_arguments(tiny.family, tiny.teacher_dir, sizes=small, **limits)
    arguments["worker_cls"] = "tests.engine.failing_worker.FailingWorker"
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    client = SizedEngineClient(engine, tiny.family.table, Mock(spec=Residency))
    try:
        before = await client.resident_bytes()
        with pytest.raises(EngineError, match=r"another rank could not .*; no memory"):
            await client.hold_sizes(whole)
        assert await client.resident_bytes() == before
        assert await answer(engine, 0, 1) == expected(tiny, 1)[0]
        held = await client.hold_sizes(whole)
        assert held == await client.resident_bytes() > before
        assert await answer(engine, 0, 3) == expected(tiny, 3)[0]
    finally:
        engine.shutdown()


@pytest.mark.slow  # a rank that fails is played in `test_ranks.py` too
@pytest.mark.skipif(platform() != "cpu", reason="the worker that fails is a CPU's")
def test_two_ranks_follow_a_change_together_or_not_at_all(
    build: Callable[[str], TinyFamily], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And their replies stay in step with what they are asked."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    asyncio.run(changes(build("lowrank")))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("full-own-ends", marks=pytest.mark.slow),
        "lowrank",
        pytest.param("lowrank-attention-merged", marks=pytest.mark.slow),
        pytest.param("lowrank-merged-when-read", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_tensor_parallel_ranks_answer_as_one(
    build: Callable[[str], TinyFamily], monkeypatch: pytest.MonkeyPatch, kind: str, compiled: bool
) -> None:
    """Every kind, all sizes mixed in one batch; the ranks talk over gloo."""
    if platform() == "cpu":  # vLLM would give each rank a NUMA node of its own
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    tiny = build(kind)
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    got = asyncio.run(session(tiny, sizes, tensor_parallel_size=2, compiled=compiled))
    assert got == [expected(tiny, size)[index] for index, size in enumerate(sizes)]
