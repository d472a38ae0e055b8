"""What the tests ask a real server, and what they read of its replies."""

from typing import Any

import httpx

GREEDY: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
ENDPOINTS = {
    "/v1/completions": {"prompt": "hello", **GREEDY},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], **GREEDY},
    "/v1/responses": {"input": "hi", "max_output_tokens": 12, "temperature": 0},
}


def assert_error(reply: httpx.Response, status: int, param: str | None) -> str:
    error = reply.json()["error"]
    assert reply.json().keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert (reply.status_code, error["code"], error["param"]) == (status, status, param), error
    return str(error["message"])


def answer(http: httpx.Client, model: str, tokens: int = 24) -> str:
    body = {"model": model, "prompt": "Once", "max_tokens": tokens, "temperature": 0}
    reply = http.post("/v1/completions", json={**body, "ignore_eos": True})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
