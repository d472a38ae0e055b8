"""`/v1/responses`: sizes, streams, refusals and limits, as at the other endpoints."""

import json
from typing import Any

import httpx
import openai
import pytest

from boomerang_core.family import Family
from tests.api.asking import assert_error, metric
from tests.api.conftest import PROMPT_TOKENS
from tests.api.servers import Running
from tests.api.test_server_limits import busy, refusals, wait_until_idle
from tests.api.test_server_tools import NO_SPACES, PARAMETERS

pytestmark = pytest.mark.engine

PATH = "/v1/responses"
SHORT: dict[str, Any] = {"input": "hello", "temperature": 0, "max_output_tokens": 12}


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_response_is_what_a_chat_would_be(client: openai.OpenAI, family: Family) -> None:
    """The same model, the same template: the same text, at every size."""
    for row in family.table.offered:
        name = family.table.model_id(row)
        asked = {"temperature": 0, "max_tokens": 12}
        messages: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ]
        chat = client.chat.completions.create(model=name, messages=messages, **asked)
        reply = client.responses.create(model=name, instructions="Be brief.", **SHORT)
        assert reply.model == name
        assert reply.output_text == chat.choices[0].message.content
        assert reply.usage is not None
        assert chat.usage is not None
        assert reply.usage.input_tokens == chat.usage.prompt_tokens
        listed = client.responses.create(
            model=name, **{**SHORT, "input": messages, "instructions": None}
        )
        assert listed.output_text == reply.output_text


def test_a_stream_says_the_same(client: openai.OpenAI, family: Family) -> None:
    size = {"size": "student"}
    whole = client.responses.create(model=family.name, extra_body=size, **SHORT)
    raw = client.responses.with_raw_response.create(
        model=family.name, stream=True, extra_body=size, **SHORT
    )
    assert raw.headers["x-boomerang-size"] == family.table.student.id
    assert raw.headers["cache-control"] == "no-cache"
    events = list(raw.parse())
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text == whole.output_text
    assert last.response.model == whole.model == family.table.model_id(family.table.student)
    assert last.response.usage is not None
    assert whole.usage is not None
    assert last.response.usage.output_tokens == whole.usage.output_tokens
    assert raw.headers["x-request-id"] in last.response.id


def test_a_conversation_goes_on_from_what_was_answered(client: openai.OpenAI) -> None:
    """As agents do it: the output of one request is part of the next one's input."""
    first = client.responses.create(**SHORT)
    asked: list[Any] = [{"role": "user", "content": "hello"}, *first.output]
    asked.append({"role": "user", "content": [{"type": "input_text", "text": "go on"}]})
    second = client.responses.create(**{**SHORT, "input": asked})
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens


def test_json_by_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"day": {"enum": [1, 2]}}, "required": ["day"]}
    schema["additionalProperties"] = False
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    more: dict[str, Any] = {**SHORT, "max_output_tokens": 100, "text": form}
    reply = client.responses.create(extra_body={"logit_bias": NO_SPACES}, **more)
    assert json.loads(reply.output_text)["day"] in (1, 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_forced_call_of_a_tool(other: Running, streamed: bool) -> None:
    other.wait_until_ready()
    tool = {"type": "function", "name": "weather", "strict": True, "parameters": PARAMETERS}
    asked: dict[str, Any] = {
        "input": "Is it warm?",
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 180,
        "temperature": 0,
        "extra_body": {"size": "student", "logit_bias": NO_SPACES},
    }
    with openai.OpenAI(base_url=f"{other.url}/v1", api_key="none") as client:
        if streamed:
            *_, last = client.responses.create(stream=True, **asked)
            assert last.type == "response.completed"
            reply = last.response
        else:
            reply = client.responses.create(**asked)
    (call,) = (item for item in reply.output if item.type == "function_call")
    assert call.name == "weather"
    assert json.loads(call.arguments).keys() == {"city", "days"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "keeps no responses"),
        ({"background": True}, "background", "keeps no responses"),
        ({"conversation": "conv_1"}, "conversation", "keeps no responses"),
        ({"previous_input_messages": [{}]}, "previous_input_messages", "keeps no responses"),
        ({"tools": [{"type": "web_search_preview"}]}, "tools", "runs no tools"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "template"),
        ({"input": None}, "input", "a text, or a list"),
        ({"input": [{"role": "user", "contents": "x"}]}, "input", "item 0 of input"),
        ({"input": ["x"]}, "input", "item 0 of input"),
        ({"input": [{"role": "user", "content": "x"}] * 5000}, "input", "too many"),
        ({"input": [{"role": "u", "content": "x"}] * 4096}, "input", "item 0 of input"),
        ({"input": "x" * (PROMPT_TOKENS + 1)}, "input", f"length is {PROMPT_TOKENS} tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "max_model_len"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "out-of-vocab"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 20}, None, ""),
        ({"temperature": -1}, "temperature", "temperature"),
        ({"priority": 1}, "priority", "order of arrival"),
        ({"vllm_xargs": {"boomerang_size": 1}}, "vllm_xargs", "internal"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
            0,
            "",
        ),
    ],
)
def test_what_is_refused(
    http: httpx.Client, stream: bool, fields: dict[str, Any], param: Any, says: str
) -> None:
    """With a status, of a stream too, and soon."""
    reply = http.post(PATH, json={**SHORT, "stream": stream, **fields}, timeout=20)
    if param is None:
        assert reply.status_code == 200
        return
    assert says in assert_error(reply, 400, param or None)


def test_nulls_and_other_fields_of_clients_are_taken(http: httpx.Client) -> None:
    none = ("background", "store", "truncation", "parallel_tool_calls", "include", "metadata")
    fields = {**dict.fromkeys(none), "store": True, "safety_identifier": "x", "user": "me"}
    reply = http.post(PATH, json={**SHORT, **fields, "stream_options": {}})
    assert reply.status_code == 200, reply.text
    assert http.get(f"{PATH}/{reply.json()['id']}").status_code == 404


def test_it_is_counted_and_waits_in_the_same_queue(http: httpx.Client, family: Family) -> None:
    size = family.table.student.id
    name = f'boomerang_requests_total{{reason="size",size="{size}"}}'
    responses = 'boomerang_responses_total{code="2xx"}'
    before = metric(http, name), metric(http, responses), refusals(http, "malformed")
    http.post(PATH, json={**SHORT, "size": "student"})
    http.post(PATH, json={**SHORT, "background": True})
    after = metric(http, name), metric(http, responses), refusals(http, "malformed")
    assert after == tuple(count + 1 for count in before)
    with busy(http, 128), busy(http, 32):
        assert_error(http.post(PATH, json=SHORT), 429, None)
    wait_until_idle(http)


def test_a_client_that_goes_frees_the_engine(http: httpx.Client) -> None:
    def generated() -> float:
        return metric(http, "vllm:generation_tokens_total")

    before, clients = generated(), 8  # so many that not every one is late
    body = {**SHORT, "stream": True, "ignore_eos": True, "max_output_tokens": 200}
    for _ in range(clients):
        with http.stream("POST", PATH, json=body) as reply:
            assert next(reply.iter_lines()) == "event: response.created"
    wait_until_idle(http)
    assert generated() - before < clients * 200
