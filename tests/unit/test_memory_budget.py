"""The sizes of a running server under a budget: an engine stands in, so that every order of
events can be tried."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from boomerang_core.errors import BudgetError, EngineError, SettingsError, UnavailableSizeError
from boomerang_core.family import load_family
from boomerang_core.memory_plan import Residents, Span, whole
from boomerang_core.sizes import SizeRow
from server.cli import _one_line
from server.memory.cgroup import PROCESS_BYTES, default_budget, memory_left, memory_limit
from server.memory.fit import kv_tokens, require_context, require_kv_cache, with_kv_cache
from server.memory.residency import BusyError, Residency
from server.refusals import refusal_of
from server.settings import read_settings
from server.sizing import Ask, Policy, Reason, decide
from server.web.errors import status_of
from tests.docs.test_readme import FAMILY

SHIPPED = load_family(FAMILY)
RESIDENTS = Residents.of(SHIPPED)
KV = 64 << 20


def budget(largest: int) -> int:
    return RESIDENTS.weight_bytes(Span(0, largest)) + KV


class Engine:
    """Notes what it is told to hold; nobody may be running what goes."""

    def __init__(self, residency: Residency) -> None:
        self.residency, self.spans = residency, [residency.plan.span]

    async def hold_sizes(self, span: Span) -> int:
        await asyncio.sleep(0)
        assert all(size in span for size in range(14) if self.residency.runs(size))
        self.spans.append(span)
        return RESIDENTS.weight_bytes(span)


def test_a_smaller_budget_waits_for_those_who_run() -> None:
    async def scene() -> None:
        residency = Residency(SHIPPED, KV, None)
        engine = Engine(residency)
        with residency.lease(13), residency.lease(3):
            change = asyncio.ensure_future(residency.change(budget(5), engine))
            await asyncio.sleep(0.01)
            assert residency.changing
            assert engine.spans == [Span(0, 13)]
            assert residency.policy.table.offered[-1].size == 5  # at once, for new requests
            with pytest.raises(BusyError):
                await residency.change(None, engine)
            with residency.lease(13):  # under the first: the same request, further on
                pass
        assert await change == RESIDENTS.weight_bytes(Span(0, 5))
        assert engine.spans[1] == Span(0, 5)
        assert not residency.changing
        with pytest.raises(AssertionError), residency.lease(6):
            pass

    asyncio.run(scene())


def test_a_larger_budget_brings_one_size_after_another() -> None:
    async def scene() -> None:
        residency = Residency(SHIPPED, KV, budget(10))
        engine = Engine(residency)
        assert await residency.change(None, engine) == RESIDENTS.weight_bytes(Span(0, 13))
        assert engine.spans == [Span(0, 10), Span(0, 11), Span(0, 12), Span(0, 13)]
        assert residency.policy == Policy.of(SHIPPED)

    asyncio.run(scene())


def test_sizes_that_are_not_offered_come_with_the_next_that_is() -> None:
    rows = tuple(replace(row, offered=row.size in (0, 10, 12, 13)) for row in SHIPPED.rows)
    residency = Residency(replace(SHIPPED, rows=rows), KV, budget(10))
    engine = Engine(residency)
    assert asyncio.run(residency.change(None, engine)) == RESIDENTS.weight_bytes(Span(0, 13))
    assert engine.spans == [Span(0, 10), Span(0, 12), Span(0, 13)]


def test_a_budget_that_fits_nothing_changes_nothing() -> None:
    async def scene() -> None:
        residency = Residency(SHIPPED, KV, budget(4))
        with pytest.raises(BudgetError, match="fits no size"):
            await residency.change(1, Engine(residency))
        assert residency.plan.budget == budget(4)

    asyncio.run(scene())
    with pytest.raises(SettingsError, match="fits no size"):
        Residency(SHIPPED, KV, KV)


def test_a_budget_beyond_the_machines_memory_changes_nothing() -> None:
    async def scene(room: int) -> int:
        residency = Residency(SHIPPED, KV, budget(4), room=lambda: room)
        return await residency.change(None, Engine(residency))

    more = RESIDENTS.weight_bytes(Span(0, 13)) - RESIDENTS.weight_bytes(Span(0, 4))
    with pytest.raises(BudgetError, match="not enough memory: the weights would take"):
        asyncio.run(scene(more - 1))
    with pytest.raises(BudgetError, match=r"0\.0MiB available"):
        asyncio.run(scene(-5))
    assert asyncio.run(scene(more)) == RESIDENTS.weight_bytes(Span(0, 13))


def largest(allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
    """A server without load."""
    return allowed[-1], Reason.AUTO_LARGEST


LEFT = Residency(SHIPPED, KV, budget(5)).policy


def test_an_engine_that_cannot_follow_leaves_what_is_true() -> None:
    """It fails at the third size that it should read: the first two are there, and offered."""

    class Failing(Engine):
        async def hold_sizes(self, span: Span) -> int:
            if len(self.spans) == 3:
                raise EngineError("no memory")
            return await super().hold_sizes(span)

    async def scene() -> None:
        residency = Residency(SHIPPED, KV, budget(2))
        with pytest.raises(EngineError):
            await residency.change(budget(9), Failing(residency))
        now = residency.plan
        assert (now.span, now.budget) == (Span(0, 4), budget(9))
        assert now.weight_bytes == RESIDENTS.weight_bytes(Span(0, 4))
        assert residency.policy.table.offered[-1].size == 4
        assert now.missing[5] == "its weights are not loaded at present"
        assert "the server's memory budget is" in now.missing[10]
        assert not residency.changing
        assert await residency.change(budget(9), Engine(residency))
        assert residency.plan.span == Span(0, 9)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"model": "smollm2-135m@135m"}, "model", 404),
        ({"model": "smollm2-135m@teacher"}, "model", 404),
        ({"model": "smollm2-135m@30L"}, "model", 404),
        ({"size": "teacher"}, "size", 400),
        ({"size": "110m"}, "size", 400),
        ({"size": "30L"}, "size", 400),
        ({"min_size": "teacher"}, "min_size", 400),
        ({"size": "auto", "min_size": "110m", "max_size": "120m"}, "min_size", 400),
    ],
)
def test_a_size_that_is_left_out_is_refused(
    fields: dict[str, str], param: str, status: int
) -> None:
    with pytest.raises(UnavailableSizeError) as caught:
        decide(LEFT, Ask(**fields), largest)
    assert (caught.value.param, int(status_of(caught.value))) == (param, status)
    assert refusal_of(caught.value) == "unavailable"
    assert "the server's memory budget is" in str(caught.value)
    assert str(caught.value).endswith("offered: 88m, 92m, 96m, 99m, 103m, 106m")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, Reason.DEFAULT),
        ({"model": "smollm2-135m"}, Reason.DEFAULT),
        ({"memory_budget": "1GiB"}, Reason.MEMORY_BUDGET),
        ({"size": "100%"}, Reason.SIZE),  # an upper bound
        ({"size": "109m"}, Reason.SIZE),
    ],
)
def test_where_the_request_allows_it_gets_the_largest_left(
    fields: dict[str, str], reason: Reason
) -> None:
    decision = decide(LEFT, Ask(**fields), largest)
    assert (decision.row.id, decision.reason) == ("106m", reason)


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", "1000\n", 1000),
        ("memory.max", "max\n", None),
        ("memory.max", "5000\n", None),  # above the machine's
        ("memory/memory.limit_in_bytes", "1000", 1000),
        ("memory/memory.limit_in_bytes", str(2**63 - 4096), None),
        ("other", "1000", None),
    ],
)
def test_the_containers_limit(tmp_path: Path, name: str, text: str, limit: int | None) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path, machine=4096) == limit


def test_the_process_takes_its_part_of_the_containers_limit() -> None:
    assert default_budget(None) is None
    assert default_budget(PROCESS_BYTES + 1) == 1
    with pytest.raises(SettingsError, match=r"may use 2\.5GiB.*allow it more"):
        default_budget(PROCESS_BYTES)


@pytest.mark.parametrize(
    ("limit", "used", "cached"),
    [
        ("memory.max", "memory.current", "inactive_file 100\n"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "inactive_file 7\ntotal_inactive_file 100\n",
        ),
    ],
)
def test_the_memory_that_a_container_has_left(
    tmp_path: Path, limit: str, used: str, cached: str
) -> None:
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / used).write_text("700\n")
    (tmp_path / used).with_name("memory.stat").write_text(f"anon 1\n{cached}")
    assert memory_left(tmp_path) == 1000 - 700 + 100


def test_a_kv_cache_that_is_not_stated_holds_a_request() -> None:
    settings = with_kv_cache(read_settings(), SHIPPED, None)
    assert settings.kv_bytes == 256 << 20
    long = with_kv_cache(read_settings(max_model_len=20_000), SHIPPED, None)
    blocks = 157 + 1  # of 128 tokens; vLLM keeps one
    assert long.kv_bytes == blocks * 128 * SHIPPED.table.teacher.kv_bytes_per_token > 256 << 20
    require_kv_cache(SHIPPED, long)
    stated = read_settings(kv_cache_bytes="1MiB")
    assert with_kv_cache(stated, SHIPPED, None) is stated


def test_on_a_gpu_it_holds_what_may_run_in_half_of_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("boomerang_core.memory_plan.built_for_cpu", lambda: False)
    weights = Residents.of(SHIPPED).weight_bytes(whole(SHIPPED.design))
    everyone = (32 * 2048 + 128) * SHIPPED.table.teacher.kv_bytes_per_token

    def chosen(budget: int) -> int:
        return with_kv_cache(read_settings(), SHIPPED, budget).kv_bytes

    assert chosen(64 << 30) == everyone
    assert chosen(weights + everyone) == everyone // 2
    assert chosen(weights + 1000) == chosen(1000) == 256 << 20


def test_the_kv_cache_holds_more_tokens_of_small_sizes() -> None:
    held = kv_tokens(SHIPPED, read_settings(kv_cache_bytes=str(KV)))
    assert held[-1] == KV // SHIPPED.table.teacher.kv_bytes_per_token
    assert held[0] == KV * 30 // (SHIPPED.table.teacher.kv_bytes_per_token * 18)  # 3 groups of 6
    assert list(held) == sorted(held, reverse=True)


@pytest.mark.parametrize(("ranks", "copies"), [(1, 1), (3, 1), (6, 2)])
def test_ranks_beyond_the_heads_keep_them_twice(ranks: int, copies: int) -> None:
    """The shipped teacher has three heads of keys and values."""
    held = kv_tokens(SHIPPED, read_settings(kv_cache_bytes=str(KV)))
    settings = read_settings(kv_cache_bytes=str(KV), tensor_parallel_size=ranks)
    for one, of_ranks in zip(held, kv_tokens(SHIPPED, settings), strict=True):
        assert of_ranks == pytest.approx(one / copies, abs=1)


@pytest.mark.parametrize("own", [{"max_position_embeddings": 8192}, {"model_max_length": 8192}])
def test_a_context_that_the_teacher_cannot_read_is_told(
    own: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SimpleNamespace(**{"max_position_embeddings": 64, **own})
    require_context(config, read_settings(max_model_len=8192))
    long = read_settings(max_model_len=8193)
    with pytest.raises(SettingsError, match="8193 tokens are more than the teacher can read: 8192"):
        require_context(config, long)
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0}  # vLLM knows how far it reaches
    require_context(config, long)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10_000}
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    require_context(config, long)


def test_what_pydantic_says_is_its_first_message() -> None:
    class Strict(BaseModel):
        count: int

        @model_validator(mode="after")
        def _refuse(self) -> Self:
            raise ValueError("this count is too long.\nMore lines.")

    with pytest.raises(ValidationError) as refused:
        Strict(count=1)
    assert _one_line(refused.value) == "ValidationError: Value error, this count is too long."
