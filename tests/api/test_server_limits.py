"""Limits and the bounded queue on the real server, and 500 bent requests that it survives."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.asking import ENDPOINTS, GREEDY, assert_error, metric
from tests.api.conftest import PROMPT_TOKENS
from tests.api.malformed import bodies

pytestmark = pytest.mark.engine

GOOD: dict[str, Any] = {"prompt": "Once upon a time", "ignore_eos": True, **GREEDY}
ROOM = 32 + 128  # max_num_seqs and max_waiting, as they are by default


def refusals(http: httpx.Client, reason: str) -> float:
    return metric(http, f'boomerang_refusals_total{{reason="{reason}"}}')


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 129}, "n"),
        ({"n": 2, "prompt": ["x"] * 65}, "n"),
        ({"prompt": [[1]] * 129}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"prompt": "x" * (PROMPT_TOKENS + 1)}, "prompt"),
        ({"prompt": [1] * (PROMPT_TOKENS + 1)}, "prompt"),
        ({"prompt": "x" * 100_000}, "prompt"),
        ({"prompt": ["x", "x" * 300]}, "prompt"),
        ({"prompt": "x" * 300, "stream": True}, "prompt"),
    ],
)
def test_too_much_is_refused_and_counted(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    before = refusals(http, "too_large")
    message = assert_error(http.post("/v1/completions", json={**GOOD, **fields}), 400, param)
    assert ("most" if param != "prompt" else f"length is {PROMPT_TOKENS} tokens") in message
    assert refusals(http, "too_large") == before + 1


def test_a_prompt_of_just_the_allowed_length(http: httpx.Client) -> None:
    body = {**GOOD, "prompt": "x" * PROMPT_TOKENS, "max_tokens": 2}
    usage = http.post("/v1/completions", json=body).json()["usage"]
    assert usage["prompt_tokens"] == PROMPT_TOKENS


def test_a_chat_that_is_too_long(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "x" * PROMPT_TOKENS}]
    assert_error(http.post("/v1/chat/completions", json={"messages": messages}), 400, "messages")


def test_a_body_that_is_too_large(http: httpx.Client) -> None:
    body = {**GOOD, "prompt": "x" * (5 << 20)}
    assert_error(http.post("/v1/completions", json=body), 413, None)


@contextmanager
def busy(http: httpx.Client, choices: int) -> Iterator[None]:
    """A request for so many long answers runs; then its client goes away."""
    body = {**GOOD, "n": choices, "max_tokens": 230, "temperature": 1, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        yield


def test_the_queue_is_bounded_and_a_client_that_goes_empties_it(http: httpx.Client) -> None:
    before = refusals(http, "queue_full")
    with busy(http, 128), busy(http, ROOM - 128):
        full = http.post("/v1/completions", json=GOOD)
        assert_error(full, 429, None)
        assert int(full.headers["retry-after"]) >= 1
        assert http.get("/ready").status_code == 200
    assert refusals(http, "queue_full") == before + 1
    gone = time.monotonic()
    while http.post("/v1/completions", json=GOOD).status_code == 429:
        assert time.monotonic() - gone < 5
    with busy(http, 128):
        pass
    wait_until_idle(http)


def wait_until_idle(http: httpx.Client) -> None:
    """No answer runs or waits, and no block of the KV cache is in use."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    began = time.monotonic()
    while any(metric(http, f"{name}{{") for name in names):
        assert time.monotonic() - began < 10
        time.sleep(0.1)


def test_clients_that_go_leave_no_block_behind(http: httpx.Client) -> None:
    def come_and_go(choices: int) -> None:
        with httpx.Client(base_url=http.base_url, timeout=60) as client, busy(client, choices):
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, (1, 3, 7, 11) * 3))
    wait_until_idle(http)


def test_no_pickled_prompt_is_taken(http: httpx.Client) -> None:
    reply = http.post("/v1/completions", json={"prompt_embeds": "gASVAAAAAAAAAAB9lC4=", **GREEDY})
    assert reply.status_code == 400, reply.text


def test_five_hundred_bent_requests(http: httpx.Client, family: Family) -> None:
    """Each is answered in time, none with a 5xx; a good request gives its answer as before."""
    source = random.Random(6)
    good = http.post("/v1/completions", json=GOOD).json()["choices"][0]["text"]
    streams = [
        (path, bodies(source, family.name, {**body, "max_tokens": 2}))
        for path, body in (*ENDPOINTS.items(), ("/v1/sizes/resolve", {}))
    ]
    json_type = {"content-type": "application/json"}
    refused = 0
    for number in range(1, 501):
        path, stream = streams[number % 3]
        text = next(stream)
        reply = http.post(path, content=text, headers=json_type, timeout=20)
        assert reply.status_code < 500, (path, text[:500], reply.text)
        if reply.status_code != 200:
            refused += 1
            assert reply.json()["error"].keys() == {"message", "type", "param", "code"}, text[:500]
        if number % 100 == 0:
            again = http.post("/v1/completions", json=GOOD)
            assert again.json()["choices"][0]["text"] == good
    assert refused > 250
    wait_until_idle(http)
