"""Bodies and counts of the two completion endpoints, around a stand-in for vLLM's handlers."""

import asyncio
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import Response
from pydantic import ValidationError

from boomerang_core.sizes import SizeRow, SizeTable
from server.engine.bodies import SizedChatCompletionRequest, SizedCompletionRequest
from server.engine.serving import Handler, SizedHandlers
from server.guard.limits import Limits
from server.guard.middleware import REQUEST_SLOTS
from server.guard.slots import RequestSlots, Slots
from server.memory.residency import Residency
from server.metrics import Metrics
from server.sizing import Policy, Reason

TABLE = SizeTable("tiny", (SizeRow(0, "1m", 4, 10**6, 2 * 10**6, 1000, True),))
MESSAGE = {"role": "user", "content": "a"}
PART = {"type": "text", "text": "a"}
TOOL = {"type": "function", "function": {"name": "a"}}
STRUCTURE = {"begin": "a", "schema": {}, "end": "a"}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [MESSAGE], **fields}


def bodies(messages: int, parts: int, tools: int, structures: int) -> list[dict[str, Any]]:
    """Bodies with so many of each, one body for each."""
    two = [{"role": "user", "content": [PART] * (parts // 2)}] * 2
    odd = [{"role": "user", "content": [PART] * (parts % 2)}] if parts % 2 else []
    form = {"type": "structural_tag", "structures": [STRUCTURE] * structures, "triggers": ["a"]}
    return [
        chat(messages=[MESSAGE] * messages),
        chat(messages=two + odd),
        chat(tools=[TOOL] * tools),
        chat(response_format=form),
    ]


def test_a_body_is_not_validated_where_it_has_too_many_parts() -> None:
    params = ("messages", "messages", "tools", "response_format")
    for body, param in zip(bodies(100_000, 100_000, 60_000, 80_000), params, strict=True):
        began = time.process_time()
        with pytest.raises(ValidationError, match="are too many; at most") as refused:
            SizedChatCompletionRequest.model_validate(body)
        assert time.process_time() - began < 0.1, param
        assert refused.value.errors()[0]["ctx"]["error"].parameter == param
    for body in bodies(4097, 4097, 1025, 1025):
        with pytest.raises(ValidationError, match="are too many"):
            SizedChatCompletionRequest.model_validate(body)


def test_a_body_with_many_parts_is_taken() -> None:
    for body in bodies(4096, 4096, 1024, 1024):
        SizedChatCompletionRequest.model_validate(body)
    tokens = {"model": "tiny", "prompt": [1] * 100_000}
    assert len(SizedCompletionRequest.model_validate(tokens).prompt) == 100_000


def counted(handler: Handler) -> Mock:
    """The metrics of one request that vLLM's handler answers so."""
    residency = Mock(spec=Residency, policy=Policy(TABLE, 0, 1000))
    residency.lease.return_value = nullcontext()
    metrics = Mock(spec=Metrics)
    client = Mock(model_config=SimpleNamespace(max_model_len=64))
    sized = SizedHandlers(residency, Mock(), metrics, Limits(10, 1.0, None, 4, 2, None, 4), client)
    request = SizedCompletionRequest(model="tiny", prompt="x")
    asyncio.run(
        sized.run(request, Mock(scope={REQUEST_SLOTS: RequestSlots(Slots(4))}, headers={}), handler)
    )
    return metrics


@pytest.mark.parametrize("status", [200, 499])
def test_what_ran_is_counted_as_served(status: int) -> None:
    async def answer(*_: object) -> Response:
        return Response(status_code=status)

    metrics = counted(answer)
    assert metrics.decided.call_args.args[0].reason is Reason.DEFAULT
    metrics.refused.assert_not_called()


@pytest.mark.parametrize("status", [500, 503])
def test_what_failed_neither_ran_nor_was_refused(status: int) -> None:
    async def fail(*_: object) -> Response:
        return Response(status_code=status)

    metrics = counted(fail)
    metrics.decided.assert_not_called()
    metrics.refused.assert_not_called()


@pytest.mark.parametrize("raised", [True, False])
def test_what_vllm_refuses_is_counted_as_refused(raised: bool) -> None:
    async def refuse(*_: object) -> Response:
        if raised:
            raise ValueError("temperature must be non-negative, got -1")
        return Response(status_code=400)

    metrics = counted(refuse)
    metrics.refused.assert_called_once_with("malformed")
    metrics.decided.assert_not_called()


def test_a_client_that_has_gone_had_its_request_run() -> None:
    async def gone(*_: object) -> None:
        return None

    metrics = counted(gone)
    metrics.decided.assert_called_once()
