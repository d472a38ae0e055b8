"""`/tokenize`, `/detokenize` and `/version` of a real server."""

import re
from typing import Any

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.asking import assert_error, metric
from tests.api.conftest import PROMPT_TOKENS

pytestmark = pytest.mark.engine


def test_a_text_and_its_tokens(http: httpx.Client, family: Family) -> None:
    for model in ({}, {"model": "tiny"}, {"model": family.table.model_id(family.table.student)}):
        reply = http.post("/tokenize", json={"prompt": "hello", **model}).json()
        assert reply["count"] == len(reply["tokens"]) == 5
        back = http.post("/detokenize", json={"tokens": reply["tokens"], **model})
        assert back.json() == {"prompt": "hello"}


def test_a_chat_is_tokenized_with_its_template(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    tokens = http.post("/tokenize", json=body).json()["tokens"]
    text = http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text == "user: hi\nassistant: "


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, None),
        ("/tokenize", {"prompt": 1}, 400, "prompt"),
        ("/tokenize", {"messages": 1}, 400, "messages"),
        ("/tokenize", {"prompt": "x", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": "x" * (PROMPT_TOKENS + 1)}, 400, "prompt"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": "x"}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "tiny@9m"}, 404, "model"),
        ("/detokenize", {"tokens": [1] * (PROMPT_TOKENS + 1)}, 400, "tokens"),
    ],
)
def test_what_cannot_be_tokenized(
    http: httpx.Client, path: str, body: Any, status: int, param: str | None
) -> None:
    assert_error(http.post(path, json=body), status, param)


def test_no_token_is_too_large_to_be_refused(http: httpx.Client) -> None:
    for token in (300, 2**31, 2**63 - 1, 2**63):
        assert http.post("/detokenize", json={"tokens": [token]}).status_code < 500


def test_a_server_says_what_it_is(http: httpx.Client, family: Family) -> None:
    told = http.get("/version").json()
    assert all(re.match(r"\d+\.\d+", told[name]) for name in ("version", "vllm"))
    assert metric(http, f'boomerang_build_info{{family="{family.name}"') == 1
