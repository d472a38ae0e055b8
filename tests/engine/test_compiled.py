"""Compiled segments answer as eager layers do, for every size, in any mix, after any change."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest

from bench.compiled import compare, sized
from bench.engines import Engine
from bench.traffic import Batch
from boomerang_core.errors import SettingsError
from server.engine import compat
from server.engine.compat import CustomOp, ir_ops
from server.engine.loader import engine_arguments
from server.engine.segments import CompiledSegment
from tests.engine import test_equality as equality
from tests.engine.conftest import LIMITS
from tests.engine.families import VOCABULARY, TinyFamily
from tests.engine.test_equality import BATCH, expected, greedy

pytestmark = pytest.mark.engine

# The same tests once more, on this module's compiled engine.
test_one_at_a_time = equality.test_one_at_a_time
test_a_batch_of_one_size = equality.test_a_batch_of_one_size
test_a_mixed_batch = equality.test_a_mixed_batch
test_staggered_arrivals = equality.test_staggered_arrivals_mix_prefill_and_decode

FAMILIES = [
    "lowrank",
    "full-teachers-ends",
    pytest.param("full-own-ends", marks=pytest.mark.slow),  # half a minute more of compiling
    pytest.param("lowrank-attention-merged", marks=pytest.mark.slow),
    pytest.param("lowrank-merged-when-read", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, build: Callable[[str], TinyFamily]) -> TinyFamily:
    """Families of both kinds of student."""
    return build(request.param)


@pytest.fixture(scope="module")
def engine(tiny: TinyFamily, keep: Callable[[Any], Any]) -> Any:
    """Its engine, compiled."""
    from vllm import LLM

    arguments = engine_arguments(tiny.family, tiny.teacher_dir, compiled=True, **LIMITS)
    return keep(LLM(**arguments))


def runs(worker: Any) -> list[bool]:
    """On a worker: whether each run of blocks is compiled."""
    found = worker.model_runner.get_model().runs.values()
    return [isinstance(run, CompiledSegment) for run in found]


def test_what_flips_together_is_one_segment(engine: Any) -> None:
    """Blocks 0 and 1 flip in one step, but block 1 is shared: it never flips."""
    assert engine.collective_rpc(runs) == [[True] * 4]


def operators_of_traces(worker: Any) -> tuple[set[bool], set[bool]]:
    """On a worker: whether vLLM's operators were plain while a segment was traced, and are now."""
    model = worker.model_runner.get_model()
    operators = [module for module in model.modules() if isinstance(module, CustomOp)]

    def plain() -> bool:
        norms = (ir_ops.rms_norm, ir_ops.fused_add_rms_norm)
        forwards = [each._forward_method == each.forward_native for each in operators]
        return all(forwards) and all(norm.get_priority() == ["native"] for norm in norms)

    seen = set[bool]()
    usual = CompiledSegment.trace

    def trace(*args: Any) -> Any:
        seen.add(plain())
        return usual(*args)

    CompiledSegment.trace = trace  # type: ignore[method-assign]
    try:
        model.prepare()
    finally:
        CompiledSegment.trace = usual  # type: ignore[method-assign]
    return seen, {plain()}


def test_traces_are_of_plain_operators(engine: Any) -> None:
    """Inductor cannot fuse vLLM's own kernels with what is around them."""
    assert engine.collective_rpc(operators_of_traces) == [({True}, {False})]


@pytest.mark.parametrize("smallest", [0, 3])
def test_one_row_on_a_side(tiny: TinyFamily, engine: Any, smallest: int) -> None:
    sizes = [3 - smallest] + [smallest] * 7
    got = greedy(engine, BATCH[:8], sizes)
    assert got == [expected(tiny, size)[i] for i, size in enumerate(sizes)]


def test_weights_that_go_and_come_back_are_traced_anew(tiny: TinyFamily, engine: Any) -> None:
    largest = tiny.sizes[-1]
    for span in ((0, 1), (largest, largest), (0, largest)):
        engine.collective_rpc("hold_sizes", args=span)
        for size in range(span[0], span[1] + 1):
            assert greedy(engine, BATCH, [size] * len(BATCH)) == expected(tiny, size)
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    got = greedy(engine, BATCH, sizes)
    assert got == [expected(tiny, size)[i] for i, size in enumerate(sizes)]


def test_what_failed_to_compile_is_given_up_and_traced_again(
    tiny: TinyFamily, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first segment is traced before the disk is full: that trace goes with its weights."""
    largest = tiny.sizes[-1]
    (before,) = engine.collective_rpc("hold_sizes", args=(0, 1))
    first = CompiledSegment._call_first
    traced: list[str] = []

    def full_disk(segment: CompiledSegment, *args: Any) -> None:
        if traced:
            raise OSError("no space left on device")
        traced.append(segment.name)
        first(segment, *args)

    def traces(worker: Any) -> list[int]:
        return [len(run._functions) for run in worker.model_runner.get_model().runs.values()]

    was = engine.collective_rpc(traces)
    with monkeypatch.context() as patch:
        patch.setattr(CompiledSegment, "_call_first", full_disk)
        (failed,) = engine.collective_rpc("hold_sizes", args=(0, largest))
        assert "no space left" in str(failed)
    assert traced
    assert engine.collective_rpc("resident_bytes") == [before]
    assert engine.collective_rpc(traces) == was
    assert greedy(engine, BATCH, [1] * len(BATCH)) == expected(tiny, 1)
    engine.collective_rpc("hold_sizes", args=(0, largest))
    for count in (1, len(BATCH)):
        got = greedy(engine, BATCH[:count], [largest] * count)
        assert got == expected(tiny, largest)[:count]


def test_what_is_released_is_not_kept_alive_by_what_was_compiled(
    tiny: TinyFamily, engine: Any
) -> None:
    """Teacher layer 5 runs at the largest size only; on a CPU its maps keep packed weights."""

    def packed(worker: Any) -> Any:
        layer = worker.model_runner.get_model().teacher.layers["5"]
        return weakref.ref(layer.mlp.down_proj.cpu_linear)

    (alive,) = engine.collective_rpc(packed)
    assert alive() is not None
    engine.collective_rpc("hold_sizes", args=(0, 1))
    gone = alive() is None
    engine.collective_rpc("hold_sizes", args=(0, tiny.sizes[-1]))
    assert gone


def test_the_bench_times_eager_layers_against_compiled_ones(
    tiny: TinyFamily, engine: Any, keep: Callable[[Any], Any]
) -> None:
    from vllm import LLM

    eager = keep(LLM(**engine_arguments(tiny.family, tiny.teacher_dir, **LIMITS)))
    assert [*eager.collective_rpc(runs), *engine.collective_rpc(runs)] == [[False] * 4, [True] * 4]
    engines = {"eager": Engine(eager), "compiled": Engine(engine)}
    batch = Batch(requests=6, prompt=5, tokens=3)
    ways = sized(engines, batch, list(tiny.sizes), VOCABULARY, same=True)
    for ratio in compare(ways, pairs=2).values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["n"] == 2
    assert engines["compiled"].compile_seconds > 0


def test_without_a_compiler_it_is_refused_before_anything_is_loaded(
    tiny: TinyFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.loader.shutil.which", lambda name: None)
    with pytest.raises(SettingsError, match="compile needs a C"):
        engine_arguments(tiny.family, tiny.teacher_dir, compiled=True)


def test_on_a_gpu_it_needs_no_cpp_compiler(
    tiny: TinyFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU image has gcc alone, for Triton."""
    monkeypatch.setattr("server.engine.loader.shutil.which", lambda name: None)
    monkeypatch.setattr(compat, "platform", lambda: "gpu")
    assert engine_arguments(tiny.family, tiny.teacher_dir, compiled=True)["hf_overrides"]
