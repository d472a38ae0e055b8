"""Tools, and what else a server does once it is told vLLM's own options."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.api.asking import ENDPOINTS, GREEDY, assert_error
from tests.api.servers import Running
from tests.api.tokenizer import byte_tokenizer

pytestmark = pytest.mark.engine

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "strict": True, "parameters": PARAMETERS},
}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
NO_SPACES = {str(byte_tokenizer().convert_tokens_to_ids(symbol)): -100 for symbol in "ĠĊĉč"}
"""A model that knows nothing fills its answer with them: JSON allows any number between words."""
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Is it warm?"}],
    "tools": [TOOL],
    "max_tokens": 180,
    "temperature": 0,
    "logit_bias": NO_SPACES,
}


@pytest.fixture(scope="module")
def client(other: Running) -> Iterator[openai.OpenAI]:
    other.wait_until_ready()
    with openai.OpenAI(base_url=f"{other.url}/v1", api_key="none") as client:
        yield client


def arguments_of(client: openai.OpenAI, choice: Any, streamed: bool, size: str) -> Any:
    """The arguments of the one call in an answer, for the tool that there is."""
    asked = {**ASKED, "tool_choice": choice, "extra_body": {"size": size}}
    model = client.models.list().data[0].id
    if not streamed:
        reply = client.chat.completions.create(model=model, **asked)
        (call,) = reply.choices[0].message.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "weather"
        return json.loads(call.function.arguments)
    parts = [
        part.function
        for chunk in client.chat.completions.create(model=model, stream=True, **asked)
        for choice in chunk.choices
        for part in choice.delta.tool_calls or ()
        if part.function
    ]
    assert "".join(part.name or "" for part in parts) == "weather"
    return json.loads("".join(part.arguments or "" for part in parts))


@pytest.mark.parametrize("size", ["student", "teacher"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_a_forced_call_has_the_tools_arguments(
    client: openai.OpenAI, choice: Any, streamed: bool, size: str
) -> None:
    arguments = arguments_of(client, choice, streamed, size)
    assert arguments.keys() == {"city", "days"}
    assert arguments["city"] in ("Oslo", "Rome")
    assert arguments["days"] in (1, 2)


def test_tools_may_be_left_to_the_model(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=client.models.list().data[0].id, **ASKED)
    assert reply.choices[0].message.content is not None


@pytest.mark.parametrize("choice", [None, "auto", "required", NAMED])
def test_without_a_parser_the_message_names_our_setting(http: httpx.Client, choice: Any) -> None:
    asked = ASKED if choice is None else {**ASKED, "tool_choice": choice}
    message = assert_error(http.post("/v1/chat/completions", json=asked), 400, "tool_choice")
    assert "vllm_options" in message
    assert "--" not in message
    asked = {**ASKED, "tool_choice": "none", "max_tokens": 1}
    assert http.post("/v1/chat/completions", json=asked).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_template_of_a_request_is_refused_in_our_words(http: httpx.Client, path: str) -> None:
    fields: list[dict[str, Any]] = [{"chat_template_kwargs": {"chat_template": "x"}}]
    if "chat" in path:
        fields.append({"chat_template": "x"})
    for more in fields:
        reply = http.post(path, json={**ENDPOINTS[path], **more})
        message = assert_error(reply, 400, "chat_template")
        assert "vllm_options" in message
        assert "--" not in message


def test_cached_tokens_are_counted_where_asked_for(other: Running) -> None:
    other.wait_until_ready()
    body = {"prompt": "x" * 200, "size": "student", **GREEDY}

    def cached() -> int:
        usage = httpx.post(f"{other.url}/v1/completions", json=body).json()["usage"]
        return int((usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0)

    assert cached() == 0
    assert cached() > 0


def test_an_option_reaches_the_engine(other: Running) -> None:
    other.wait_until_ready()
    body = {"prompt": "x", "logprobs": 4, "max_tokens": 1}
    reply = httpx.post(f"{other.url}/v1/completions", json=body)
    assert "max allowed: 3" in assert_error(reply, 400, "logprobs")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_priority_that_would_do_nothing_is_refused(http: httpx.Client, path: str) -> None:
    asked = {"messages": ASKED["messages"]} if "chat" in path else {"prompt": "x"}
    body = {**asked, "max_tokens": 1}
    for fields, headers in (({"priority": 1}, {}), ({}, {"X-Vllm-Priority": "-1"})):
        reply = http.post(path, json={**body, **fields}, headers=headers)
        assert "order of arrival" in assert_error(reply, 400, "priority")
    assert_error(http.post(path, json=body, headers={"X-Vllm-Priority": "high"}), 400, "priority")
    plain = http.post(path, json={**body, "priority": 0}, headers={"X-Vllm-Priority": "0"})
    assert plain.status_code == 200
