"""The engine client, around a stand-in for vLLM's."""

import asyncio
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from boomerang_core.errors import EngineError
from boomerang_core.memory_plan import Span
from boomerang_core.sizes import SizeRow, SizeTable
from server.engine import client as client_module
from server.engine.client import SizedEngineClient, start_engine
from server.engine.compat import AsyncEngineArgs, EngineDeadError, RetryableRequestError
from server.engine.watch import StepWatch, Watch
from server.load.chooser import Chooser
from server.load.prediction import Latency
from server.memory.device import VLLM_SHARE
from server.memory.residency import Residency
from server.metrics import Metrics

TABLE = SizeTable("tiny", (SizeRow(0, "1m", 4, 10**6, 2 * 10**6, 1000, True),))


def test_a_client_stops_listening_before_it_stops_the_engine() -> None:
    """Or vLLM's task sees the engine end, and logs that it died."""

    async def listening_when_stopped() -> bool:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(asyncio.Event().wait())
        seen = loop.create_future()

        def shutdown(timeout: float | None) -> None:
            loop.call_soon_threadsafe(lambda: seen.set_result(task.cancelling() == 0))

        inner = SimpleNamespace(output_handler=task, shutdown=shutdown)
        client = SizedEngineClient(inner, TABLE, Mock(spec=Residency))
        await loop.run_in_executor(None, client.shutdown, 1.0)
        return bool(await seen)

    assert not asyncio.run(listening_when_stopped())


def test_a_request_that_meets_a_dead_engine_may_be_sent_again() -> None:
    """vLLM's routes raise the client's `dead_error` before they generate; a 503, not a 500."""
    inner = SimpleNamespace(errored=True, dead_error=EngineDeadError())
    client = SizedEngineClient(inner, TABLE, Mock(spec=Residency))
    assert client.dead
    assert isinstance(client.dead_error, RetryableRequestError)


def test_what_vllm_says_of_a_budget_is_passed_on() -> None:
    async def fail(*_: object, **__: object) -> None:
        raise Exception("Call to collective_rpc method failed: the engine has died")

    client = SizedEngineClient(SimpleNamespace(collective_rpc=fail), TABLE, Mock(spec=Residency))
    with pytest.raises(EngineError, match=r"could not follow the budget: .*has died"):
        asyncio.run(client.hold_sizes(Span(0, 0)))


def test_what_any_rank_says_of_a_budget_is_passed_on() -> None:
    async def replies(*_: object, **__: object) -> list[int | str]:
        return [100, "a tensor is missing", "a tensor is missing"]

    client = SizedEngineClient(SimpleNamespace(collective_rpc=replies), TABLE, Mock(spec=Residency))
    with pytest.raises(EngineError, match=r"could not follow the budget: a tensor is missing$"):
        asyncio.run(client.hold_sizes(Span(0, 0)))


def test_the_reading_of_weights_teaches_the_costs_nothing() -> None:
    """Requests run on, so the step after it seems to have taken as long as both."""
    clock = iter((1.0, 1.25, 60.0, 60.5))
    chooser = Mock(spec=Chooser)
    chooser.load, chooser.costs = Mock(), Mock()
    watch = Watch(TABLE, chooser, Mock(spec=Metrics))
    config = SimpleNamespace(
        cache_config=SimpleNamespace(kv_cache_memory_bytes=1),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, world_size=1),
        scheduler_config=SimpleNamespace(async_scheduling=False),
    )
    steps = StepWatch(config, watch=watch, clock=lambda: next(clock))
    step = SimpleNamespace(
        num_running_reqs=2,
        num_waiting_reqs=0,
        kv_cache_usage=0.5,
        running_lora_adapters={"0": 2},
        waiting_lora_adapters={},
    )
    progress = []

    async def read(*_: object, **__: object) -> list[int]:
        progress.append(client.progress)
        return [1]

    unfinished = SimpleNamespace(has_unfinished_requests=lambda: True)
    inner = SimpleNamespace(collective_rpc=read, output_processor=unfinished)
    client = SizedEngineClient(inner, TABLE, Mock(spec=Residency), watch)
    for _ in range(2):
        steps.record(step, None)
    assert asyncio.run(client.hold_sizes(Span(0, 0))) == 1
    for _ in range(2):
        progress.append(client.progress)
        steps.record(step, None)
    learned = [call.args[0].seconds for call in chooser.costs.observe.call_args_list]
    assert learned == [0.25, 0.5]
    assert progress == [None, 2, 3]  # no step is owed while weights are read


def test_without_requests_no_step_is_owed() -> None:
    idle = SimpleNamespace(has_unfinished_requests=lambda: False)
    watch = Watch(TABLE, Mock(spec=Chooser), Mock(spec=Metrics))
    inner = SimpleNamespace(output_processor=idle)
    client = SizedEngineClient(inner, TABLE, Mock(spec=Residency), watch)
    assert client.progress is None


def output(
    prompt: int, cached: int | None = 0, finished: bool = True, metrics: object = None
) -> SimpleNamespace:
    """What vLLM says of a request with four tokens in one choice."""
    return SimpleNamespace(
        prompt_token_ids=[1] * prompt,
        num_cached_tokens=cached,
        outputs=[SimpleNamespace(token_ids=[5] * 4)],
        finished=finished,
        metrics=metrics,
    )


@pytest.mark.parametrize(("cached", "computed"), [(880, 20), (0, 900), (None, 900)])
def test_the_load_learns_of_prompts_what_the_engine_computes(
    cached: int | None, computed: int
) -> None:
    """The costs are learned from computed tokens; what a client is told counts all of them."""
    chooser = Chooser.of(TABLE, Latency(1.0, 1.0), 1)
    metrics = Mock(spec=Metrics)
    flight = Watch(TABLE, chooser, metrics).begin(0)
    flight.saw(output(900, cached), is_delta=False)
    flight.ended()
    assert chooser.load.demand(0.0).prompt_tokens == computed
    assert metrics.ended.call_args.args[1].prompt_tokens == 900
    assert flight.spent.prompt_tokens == 900


def test_what_is_in_flight_counts_choices() -> None:
    registry = CollectorRegistry()
    name, label = "boomerang_requests_in_flight", {"size": "1m"}
    metrics = Metrics(Mock(table=TABLE, footprint_tokens=1), registry)
    watch = Watch(TABLE, Chooser.of(TABLE, Latency(1.0, 1.0), 1), metrics)
    flights = [watch.begin(0, choices) for choices in (3, 1)]
    assert registry.get_sample_value(name, label) == 4
    flights[0].ended()
    assert registry.get_sample_value(name, label) == 1
    flights[1].ended()
    assert registry.get_sample_value(name, label) == 0


def test_a_stream_that_is_broken_off_has_a_first_token() -> None:
    """Or those that nobody waited for would be missing where the server is late."""
    registry = CollectorRegistry()
    metrics = Metrics(Mock(table=TABLE, footprint_tokens=1), registry)
    flight = Watch(TABLE, Chooser.of(TABLE, Latency(1.0, 1.0), 1), metrics).begin(0)
    times = SimpleNamespace(
        num_generation_tokens=4, first_token_ts=1.0, last_token_ts=2.0, first_token_latency=0.5
    )
    flight.saw(output(10, finished=False, metrics=times), is_delta=True)
    flight.ended()

    def count(name: str) -> float | None:
        return registry.get_sample_value(f"boomerang_{name}_seconds_count", {"size": "1m"})

    assert (count("first_token"), count("token"), count("request")) == (1, None, None)


def test_the_engine_starts_as_that_of_an_http_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the context vLLM chooses how many tokens a step may take: 8,192 on an H100, not 2,048."""
    llm, arguments = Mock(), Mock()
    monkeypatch.setattr(client_module, "AsyncLLM", llm)
    monkeypatch.setattr(client_module, "AsyncEngineArgs", Mock(return_value=arguments))
    monkeypatch.setattr(client_module, "engine_arguments", lambda *_, **__: {})
    start_engine(Mock(table=TABLE), Path(), Mock(spec=Residency))
    assert llm.from_engine_args.call_args.args == (arguments,)
    assert llm.from_engine_args.call_args.kwargs["usage_context"].name == "OPENAI_API_SERVER"


def test_the_share_of_a_gpu_is_at_most_vllms_own() -> None:
    assert AsyncEngineArgs.gpu_memory_utilization == VLLM_SHARE


def test_vllm_logs_its_statistics_until_the_server_ends() -> None:
    logged: list[int] = []

    class Inner:
        async def do_log_stats(self) -> None:
            logged.append(1)

    async def run() -> None:
        client = SizedEngineClient(Inner(), TABLE, Mock())
        with suppress(TimeoutError):
            await asyncio.wait_for(client.log_statistics(0.001), 0.2)

    asyncio.run(run())
    assert len(logged) > 2
