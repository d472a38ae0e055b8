"""The speed benchmarks do the work that they say they time."""

from collections.abc import Callable
from typing import Any

import pytest

from bench.engines import routed_engine
from bench.mixing import compare, ways
from bench.traffic import Batch
from tests.engine.conftest import LIMITS
from tests.engine.families import VOCABULARY, TinyFamily
from tests.engine.test_equality import BATCH, TOKENS, expected

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tiny(build: Callable[[str], TinyFamily]) -> TinyFamily:
    return build("lowrank")


@pytest.fixture(scope="module")
def engine(tiny: TinyFamily, keep: Callable[[Any], Any]) -> Any:
    return keep(routed_engine(tiny.family, **LIMITS))


def test_sizes_in_turn_answer_as_sizes_mixed(
    tiny: TinyFamily, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    requests = list(zip(sizes, BATCH, strict=True))
    steps: list[set[int]] = []
    runner = engine._llm.llm_engine.model_executor.driver_worker.worker.model_runner
    reorder = runner._may_reorder_batch

    def spy(output: Any) -> None:
        steps.append({runner._size(name) for name in runner.input_batch.req_ids})
        reorder(output)

    monkeypatch.setattr(runner, "_may_reorder_batch", spy)
    with engine.in_turn():
        got = engine.generate(requests, TOKENS)
    assert got == [expected(tiny, size)[place] for place, size in enumerate(sizes)]
    assert {len(step) for step in steps} == {1}
    assert set.union(*steps) == set(tiny.sizes)
    steps.clear()
    assert engine.generate(requests, TOKENS) == got
    assert max(len(step) for step in steps) == len(tiny.sizes)


def test_every_way_is_compared_with_mixing(engine: Any) -> None:
    batch = Batch(requests=6, prompt=5, tokens=3)
    others = set(ways(engine, batch.at([0, 2, 3], VOCABULARY, 0), batch.tokens)) - {"mixed"}
    report = compare(engine, batch, [0, 2, 3], VOCABULARY, pairs=2)
    assert report.keys() == others
    for ratio in report.values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["n"] == 2
