"""The engine client, around a stand-in for vLLM's."""

import asyncio
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from boomerang_core.errors import EngineError
from boomerang_core.residency import Span
from boomerang_core.sizes import SizeRow, SizeTable
from server.engine.client import SizedEngineClient
from server.engine.compat import EngineDeadError, RetryableRequestError
from server.engine.serving import _about_tokens
from server.residency import Residency

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


def test_what_a_worker_says_of_a_budget_is_passed_on() -> None:
    async def fail(*_: object, **__: object) -> None:
        raise Exception("Call to collective_rpc method failed: out of memory")

    client = SizedEngineClient(SimpleNamespace(collective_rpc=fail), TABLE, Mock(spec=Residency))
    with pytest.raises(EngineError, match=r"could not follow the budget: .*out of memory"):
        asyncio.run(client.hold_sizes(Span(0, 0)))


def test_a_prompt_is_as_long_as_its_parts() -> None:
    """Parts may be text, texts, pictures, or all of them."""
    parts: list[object] = [{"type": "text", "text": "abcd" * 10}, "efgh" * 5, {"type": "image"}]
    mixed = SimpleNamespace(messages=[{"role": "user", "content": parts}])
    whole = SimpleNamespace(messages=[{"role": "user", "content": "abcd" * 15}])
    assert _about_tokens(mixed) == _about_tokens(whole)
    assert _about_tokens(SimpleNamespace(prompt=[5, 6, 7])) == 3
