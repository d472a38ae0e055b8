"""The real server on a socket, with a real engine: what clients see."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from boomerang_core.family import Family
from tests.api.asking import ENDPOINTS, GREEDY, assert_error, metric
from tests.api.servers import Running

pytestmark = pytest.mark.engine


def test_while_loading_it_is_live_and_not_ready(loading: Running) -> None:
    """First in the file: the session's server has only just begun to load."""
    with httpx.Client(base_url=loading.url) as client:
        assert client.get("/live").status_code == 200
        assert client.get("/ready").status_code == 503
        reply = client.post("/v1/completions", json={"prompt": "x"})
        assert reply.status_code == 503
        assert reply.headers["retry-after"]
        assert_error(reply, 503, None)
        assert client.get("/health").status_code == 503
        assert client.get("/metrics").status_code == 200


def offered_ids(family: Family) -> list[str]:
    return [family.table.model_id(row) for row in family.table.offered]


def test_probes_of_a_loaded_server(http: httpx.Client) -> None:
    for path in ("/live", "/ready", "/health"):
        assert http.get(path).status_code == 200


def test_models_and_sizes_list_what_is_offered(http: httpx.Client, family: Family) -> None:
    first, *cards = http.get("/v1/models").json()["data"]
    assert (first["id"], first["parent"]) == (family.name, None)
    assert first["size"]["id"] == family.table.model_id(family.table.rows[family.default_size])
    assert [card["id"] for card in cards] == offered_ids(family)
    assert {card["parent"] for card in cards} == {family.name}
    sizes = http.get("/v1/sizes").json()
    assert sizes["family"] == family.name
    assert [row["params"] for row in sizes["data"]] == [row.params for row in family.rows]
    for row, shown in zip(family.rows, sizes["data"], strict=True):
        assert shown["footprint_bytes"] == row.footprint_bytes(sizes["footprint_tokens"])
    card = http.get(f"/v1/models/{family.name}").json()
    assert (card["id"], card["parent"]) == (family.name, None)
    assert_error(http.get("/v1/models/gpt-4"), 404, "model")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_size_answers_by_name(http: httpx.Client, family: Family, path: str) -> None:
    for row in family.table.offered:
        name = family.table.model_id(row)
        reply = http.post(path, json={"model": name, **ENDPOINTS[path]})
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == name
        assert reply.headers["x-boomerang-size"] == row.id
        assert reply.headers["x-boomerang-reason"] == "model"


def test_sizes_answer_differently_and_together_as_alone(http: httpx.Client, family: Family) -> None:
    def run(name: str) -> str:
        body = {"model": name, "prompt": "Once upon a time", "ignore_eos": True, **GREEDY}
        return str(http.post("/v1/completions", json=body).json()["choices"][0]["text"])

    names = offered_ids(family)
    alone = [run(name) for name in names]
    assert len(set(alone)) == len(names), "the random sizes of a tiny family all disagree"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, names * 4)) == alone * 4


@pytest.mark.parametrize("path", ENDPOINTS)
def test_fields_choose_a_size(http: httpx.Client, family: Family, path: str) -> None:
    table = family.table
    middle = table.offered[1]
    budget = middle.footprint_bytes(family.footprint_tokens)
    default = table.rows[family.default_size]
    for fields, row, reason in (
        ({}, default, "default"),
        ({"model": family.name}, default, "default"),
        ({"size": "student"}, table.student, "size"),
        ({"size": f"{middle.layers}L"}, middle, "size"),
        ({"memory_budget": budget}, middle, "memory_budget"),
        ({"memory_budget": "1GiB"}, table.teacher, "memory_budget"),
    ):
        reply = http.post(path, json={**ENDPOINTS[path], **fields})
        assert reply.json()["model"] == table.model_id(row), fields
        assert reply.headers["x-boomerang-size"] == row.id
        assert reply.headers["x-boomerang-reason"] == reason


def test_resolve_counts_context_and_concurrency(http: httpx.Client, family: Family) -> None:
    row = family.table.offered[1]
    body = {"memory_budget": row.footprint_bytes(6000), "context_tokens": 2000, "concurrency": 3}
    reply = http.post("/v1/sizes/resolve", json=body).json()
    assert reply["model"] == family.table.model_id(row)
    assert (reply["reason"], reply["kv_tokens"]) == ("memory_budget", 6000)
    assert reply["size"]["footprint_bytes"] == body["memory_budget"]
    for bad in ({"context_tokens": 0}, {"concurrency": "2"}, {"tokens": 5}):
        assert_error(http.post("/v1/sizes/resolve", json=bad), 400, next(iter(bad)))


def test_request_ids_are_echoed(http: httpx.Client) -> None:
    body = {"prompt": "x", **GREEDY}
    for path in ("/v1/sizes", "/nowhere", "/live"):
        assert http.get(path, headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
    assert http.post("/v1/completions", json=body).headers["x-request-id"]
    assert len(http.get("/live", headers={"x-request-id": "y" * 999}).headers["x-request-id"]) < 99
    named = {**body, "request_id": "from-the-body"}
    reply = http.post("/v1/completions", json=named)
    assert reply.headers["x-request-id"] == "from-the-body"
    assert reply.json()["id"] == "cmpl-from-the-body"
    reply = http.post("/v1/completions", json=named, headers={"x-request-id": "abc"})
    assert reply.json()["id"] == "cmpl-abc"  # as in vLLM
    reply = http.post("/v1/completions", json={**body, "request_id": "forged status=500"})
    assert len(reply.headers["x-request-id"]) == 32

    def same_id(_: int) -> int:
        headers = {"x-request-id": "same"}
        return http.post("/v1/completions", json=body, headers=headers).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(same_id, range(8))) == {200}


def test_the_openai_client(server: Running, family: Family) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [card.id for card in client.models.list()] == [family.name, *offered_ids(family)]
    name = family.table.model_id(family.table.student)
    assert client.models.retrieve(name).id == name
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    chunks = list(
        client.chat.completions.create(
            model=family.name,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"size": "student"},
            **GREEDY,
        )
    )
    assert {chunk.model for chunk in chunks} == {name}
    assert chunks[-1].usage is not None
    whole = client.chat.completions.create(model=name, messages=messages, **GREEDY)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=family.name, prompt="x", extra_body={"memory_budgt": 1})


def test_echoed_logprobs_as_lm_eval_asks(http: httpx.Client) -> None:
    body = {"prompt": "hello", "echo": True, "logprobs": 1, "max_tokens": 1, "size": "student"}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert len(logprobs["token_logprobs"]) == 6
    assert logprobs["token_logprobs"][0] is None


def test_a_stream_is_server_sent_events(http: httpx.Client) -> None:
    body = {"prompt": "x", "stream": True, "ignore_eos": True, **GREEDY}
    with http.stream("POST", "/v1/completions", json=body) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert reply.headers["x-boomerang-reason"] == "default"
    assert lines[-1] == "[DONE]"
    assert all(json.loads(line)["choices"] for line in lines[:-1])


def test_a_client_that_goes_frees_the_engine(http: httpx.Client) -> None:
    def generated() -> float:
        return metric(http, "vllm:generation_tokens_total")

    before, gone = generated(), -1.0
    # many answers, so that they cannot all end before the client has gone
    body = {"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 240, "n": 24}
    with http.stream("POST", "/v1/completions", json=body) as reply:
        next(reply.iter_lines())
    while gone != (gone := generated()):
        time.sleep(0.5)
    assert gone - before < 24 * 240
    http.post("/v1/completions", json={"prompt": "x", "ignore_eos": True, **GREEDY})
    assert generated() - gone == GREEDY["max_tokens"]


def test_our_fields_are_documented(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    for body in ("SizedCompletionRequest", "SizedChatCompletionRequest", "SizedResponsesRequest"):
        assert schemas[body]["properties"].keys() >= {
            "size",
            "memory_budget",
            "min_size",
            "max_size",
        }


@pytest.mark.parametrize("path", ENDPOINTS)
def test_auto_says_why(http: httpx.Client, family: Family, path: str) -> None:
    """Under hardly any load: the largest that the request allows."""
    middle = family.table.offered[1]
    for fields, row in (
        ({"size": "auto"}, family.table.teacher),
        ({"size": "auto", "max_size": middle.id}, middle),
        ({"max_size": "student"}, family.table.student),
    ):
        reply = http.post(path, json={**ENDPOINTS[path], **fields})
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == family.table.model_id(row)
        reason = reply.headers["x-boomerang-reason"]
        assert reason in ("auto:largest", "auto:unmeasured")
        name = f'boomerang_requests_total{{reason="{reason}",size="{row.id}"}}'
        assert metric(http, name) >= 1
        resolved = http.post("/v1/sizes/resolve", json=fields).json()
        assert resolved["model"] == family.table.model_id(row)


def test_the_engines_steps_teach_the_chooser(http: httpx.Client) -> None:
    for _ in range(3):
        http.post("/v1/completions", json={"prompt": "x", "ignore_eos": True, **GREEDY})
    reply = http.post("/v1/completions", json={"prompt": "x", "size": "auto", **GREEDY})
    assert reply.headers["x-boomerang-reason"] != "auto:unmeasured"


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_stream_is_not_to_be_collected_by_a_proxy(http: httpx.Client, path: str) -> None:
    streamed, whole = (
        http.post(path, json={**ENDPOINTS[path], "stream": stream}).headers
        for stream in (True, False)
    )
    assert (streamed["cache-control"], streamed["x-accel-buffering"]) == ("no-cache", "no")
    assert "x-accel-buffering" not in whole
