"""The engine on a GPU, however it is set, answers as transformers does: fp32, greedy."""

from collections.abc import Callable
from typing import Any

import pytest
from vllm.compilation.breakable_cudagraph import BreakableCUDAGraphWrapper

from boomerang_core.memory_plan import Span
from server.engine.graph_spans import PROMPT_ROWS
from server.engine.loader import engine_arguments
from tests.engine import test_equality as equality
from tests.engine.conftest import LIMITS
from tests.engine.families import TinyFamily
from tests.engine.test_equality import BATCH, expected, greedy, prompts, reference

pytestmark = pytest.mark.gpu

# The same tests once more, on this module's engines.
test_one_at_a_time = equality.test_one_at_a_time
test_a_batch_of_one_size = equality.test_a_batch_of_one_size
test_a_mixed_batch = equality.test_a_mixed_batch
test_staggered_arrivals = equality.test_staggered_arrivals_mix_prefill_and_decode
test_prefix_cache_never_crosses_sizes = equality.test_prefix_cache_never_crosses_sizes


WAYS: dict[str, dict[str, Any]] = {
    "graphs": {},
    "eager": {"graphs": False},
    "compiled": {"compiled": True},
    "synchronous": {"async_scheduling": False},
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How the engine is set: as a server sets it, and in one thing otherwise."""
    return WAYS[request.param]


@pytest.fixture(scope="module", params=["lowrank", "lowrank-attention-merged", "full-own-ends"])
def tiny(request: pytest.FixtureRequest, build: Callable[[str], TinyFamily]) -> TinyFamily:
    """A family of each kind."""
    return build(request.param)


@pytest.fixture(scope="module")
def engine(tiny: TinyFamily, way: dict[str, Any], keep: Callable[[Any], Any]) -> Any:
    """Its engine on the GPU."""
    from vllm import LLM

    return keep(LLM(**engine_arguments(tiny.family, tiny.teacher_dir, **way, **LIMITS)))


def captured(worker: Any) -> tuple[int, int]:
    """On a worker: how many graphs there are to replay, whole and in pieces."""
    model = worker.model_runner.model
    return len(getattr(model, "concrete_cudagraph_entries", ())), len(getattr(model, "entries", ()))


def test_a_graph_for_each_span_and_number_of_rows(engine: Any, way: dict[str, Any]) -> None:
    """Four sizes: each alone, and three spans from the smallest up.

    Whole for 1, 2, 4, 8 and 16 rows; in pieces for those of prompts.
    """
    graphs = (7 * 5, 7 * len(PROMPT_ROWS)) if way.get("graphs", True) else (0, 0)
    assert engine.collective_rpc(captured) == [graphs]


def test_steps_with_prompts_are_replayed(
    tiny: TinyFamily, engine: Any, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one size and of many; all prompts of a batch are taken in one step."""
    replays = []
    original = BreakableCUDAGraphWrapper._replay

    def counted(graph: Any, entry: Any, *args: Any) -> Any:
        replays.append(entry.batch_descriptor.span)
        return original(graph, entry, *args)

    monkeypatch.setattr(BreakableCUDAGraphWrapper, "_replay", counted)
    top = tiny.sizes[-1]
    for seed, sizes in enumerate(([top] * 4, [0, 1, top, top]), start=90):
        batch = prompts(4, seed)  # that the prefix cache does not know
        answers = [reference(tiny.export_dir(size), batch)[i] for i, size in enumerate(sizes)]
        assert greedy(engine, batch, sizes) == answers
    assert replays == ([Span(top, top), Span(0, top)] if way.get("graphs", True) else [])


def test_weights_that_come_and_go_are_captured_anew(tiny: TinyFamily, engine: Any) -> None:
    for smallest, largest in ((0, 1), (0, tiny.sizes[-1])):
        engine.collective_rpc("hold_sizes", args=(smallest, largest))
        sizes = [index % (largest - smallest + 1) + smallest for index in range(len(BATCH))]
        got = greedy(engine, BATCH, sizes)
        assert got == [expected(tiny, size)[i] for i, size in enumerate(sizes)]
