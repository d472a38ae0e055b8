"""The same questions of the openai client to our teacher and to plain vLLM with that teacher.

What comes back must be equal, but for ids, times, the name of the model and the fingerprint, which
is a digest of vLLM's configuration.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from boomerang_core.family import Family
from tests.api.conftest import PROMPT_TOKENS
from tests.api.servers import CONTEXT, START_SECONDS, Running, environment

pytestmark = pytest.mark.engine

OWN = ("id", "created", "model", "system_fingerprint")
CHAT: list[Any] = [{"role": "user", "content": "Tell me a story"}]
FULL: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "extra_body": {"ignore_eos": True}}
SAMPLED: dict[str, Any] = {**FULL, "temperature": 1, "seed": 11}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

COMPLETIONS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": "Once upon a time", **FULL},
    "tokens": {"prompt": [1, 2, 3, 4], **FULL},
    "several": {"prompt": ["one", "two", "three"], **FULL},
    "seed": {"prompt": "Once upon a time", **SAMPLED},
    "n": {"prompt": "Once", "n": 3, **SAMPLED},
    "logprobs": {"prompt": "Once", "logprobs": 3, **FULL},
    "echo": {"prompt": "Once", "logprobs": 1, "echo": True, **FULL},
    "echo alone": {"prompt": "Once", "logprobs": 1, "echo": True, "max_tokens": 0},
    "until the end": {"prompt": "Once", "temperature": 0, "max_tokens": 200},
    "stream": {"prompt": "Once upon a time", **FULL, **USAGE},
    "stream of n": {"prompt": "Once", "n": 2, **SAMPLED, **USAGE},
}
CHATS: dict[str, dict[str, Any]] = {
    "greedy": FULL,
    "seed": SAMPLED,
    "n": {**SAMPLED, "n": 2},
    "logprobs": {**FULL, "logprobs": True, "top_logprobs": 2},
    "max_completion_tokens": {"temperature": 0, "max_completion_tokens": 7},
    "json": {**FULL, "max_tokens": 60, "response_format": {"type": "json_object"}},
    "stream": {**FULL, **USAGE},
    "stream of logprobs": {**FULL, **USAGE, "logprobs": True},
}
ERRORS: dict[str, dict[str, Any]] = {
    "max_tokens": {"prompt": "x", "max_tokens": 10**6},
    "temperature": {"prompt": "x", "temperature": -1},
    "top_p": {"prompt": "x", "top_p": 2},
    "n": {"prompt": "x", "n": 0},
    "no prompt": {"prompt": None},
    "logprobs": {"prompt": "x", "logprobs": 100},
    "stream_options": {"prompt": "x", "stream_options": {"include_usage": True}},
    "mistyped": {"prompt": {"text": "x"}},
    "regex": {"prompt": "x", "extra_body": {"structured_outputs": {"regex": "(["}}},
    "grammar": {"prompt": "x", "extra_body": {"structured_outputs": {"grammar": "root ::= ("}}},
    "logit_bias": {"prompt": "x", "logit_bias": {"99999": 1}},
    "token ids": {"prompt": [99999]},
    "too long": {"prompt": "x" * 300},
    "as long as the context": {"prompt": "x" * 256},
}


@pytest.fixture(scope="module")
def plain(
    server: Running, family: Family, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    """Plain vLLM with the family's teacher."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = str(Path(family.teacher.location))
    options = ["--model", folder, "--served-model-name", "plain", "--port", str(port)]
    options += ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    options += ["--kv-cache-memory-bytes", str(16 << 20), "--no-enable-chunked-prefill"]
    log = tmp_path_factory.mktemp("plain") / "log"
    with log.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options],
            env=environment(
                VLLM_ENABLE_V1_MULTIPROCESSING="0",  # its worker needs no process of its own
                VLLM_WORKER_MULTIPROC_METHOD="spawn",
                VLLM_NO_USAGE_STATS="1",
            ),
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 2 * START_SECONDS
    try:
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield client_of(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=CONTEXT).status_code == 200
    except httpx.ConnectError:
        return False


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def ours(server: Running) -> openai.OpenAI:
    return client_of(server.url)


def seen(reply: Any) -> Any:
    """A reply or a stream as plain data, without what must differ."""
    if isinstance(reply, openai.Stream):
        return [seen(chunk) for chunk in reply]
    data = reply.model_dump()
    return {k: v for k, v in data.items() if k not in OWN}


def joined(reply: Any) -> Any:
    """A stream's answers and its end; how it was cut into chunks is a matter of time."""
    if not isinstance(reply, list):
        return reply
    texts: dict[int, str] = {}
    ends: dict[int, Any] = {}
    for choice in (choice for chunk in reply for choice in chunk["choices"]):
        text = choice["text"] if "text" in choice else choice["delta"].get("content")
        texts[choice["index"]] = texts.get(choice["index"], "") + (text or "")
        ends[choice["index"]] = choice["finish_reason"] or ends.get(choice["index"])
    return texts, ends, reply[-1]["usage"]


def teacher(family: Family) -> str:
    return family.table.model_id(family.table.teacher)


@pytest.mark.parametrize("case", COMPLETIONS)
def test_completions(ours: openai.OpenAI, plain: openai.OpenAI, family: Family, case: str) -> None:
    got, expected = (
        joined(seen(client.completions.create(model=model, **COMPLETIONS[case])))
        for client, model in ((ours, teacher(family)), (plain, "plain"))
    )
    assert got == expected


@pytest.mark.parametrize("case", CHATS)
def test_chats(ours: openai.OpenAI, plain: openai.OpenAI, family: Family, case: str) -> None:
    got, expected = (
        joined(seen(client.chat.completions.create(model=model, messages=CHAT, **CHATS[case])))
        for client, model in ((ours, teacher(family)), (plain, "plain"))
    )
    assert got == expected


def test_stop_strings(ours: openai.OpenAI, plain: openai.OpenAI, family: Family) -> None:
    """A string out of the middle of the answer, which both then stop before."""
    ask: dict[str, Any] = {"prompt": "Once upon a time", **FULL}
    text = plain.completions.create(model="plain", **ask).choices[0].text
    for stop in (text[5:7], [text[9], text[4:8]]):
        got, expected = (
            seen(client.completions.create(model=model, stop=stop, **ask))
            for client, model in ((ours, teacher(family)), (plain, "plain"))
        )
        assert got == expected
        assert got["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ERRORS)
def test_errors(
    ours: openai.OpenAI,
    plain: openai.OpenAI,
    server: Running,
    family: Family,
    case: str,
    stream: bool,
) -> None:
    """The same status; a message each, in the same form; of a stream too, where vLLM says 200."""
    raised = []
    streams: dict[str, Any] = {"stream": True} if stream and case != "stream_options" else {}
    for client, model, more in ((ours, teacher(family), streams), (plain, "plain", {})):
        with pytest.raises(openai.APIStatusError) as error:
            client.completions.create(model=model, **ERRORS[case], **more)
        raised.append(error.value)
    got, expected = raised
    assert got.status_code == expected.status_code
    assert isinstance(got.body, dict)
    assert isinstance(expected.body, dict)
    assert got.body.keys() == expected.body.keys()
    assert all(body["type"] and body["message"] for body in (got.body, expected.body))
    assert "Traceback" not in server.log.read_text()


def test_chats_that_cannot_be(ours: openai.OpenAI, family: Family) -> None:
    """A stream's error has a status of its own there too."""
    for more in ({"logprobs": True, "top_logprobs": 100}, {"logit_bias": {"99999": 1}}):
        ask: dict[str, Any] = {**more, "messages": CHAT, "stream": True}
        with pytest.raises(openai.BadRequestError):
            ours.chat.completions.create(model=teacher(family), **ask)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_clients_know_a_prompt_that_is_too_long(
    ours: openai.OpenAI, plain: openai.OpenAI, family: Family, stream: bool
) -> None:
    """By vLLM's words; the number is that of our own bound, where it is lower."""
    for client, model, most in ((ours, teacher(family), PROMPT_TOKENS), (plain, "plain", 256)):
        asked: list[Any] = [{"role": "user", "content": "x" * 300}]
        known = f"maximum context length is {most} tokens. However, your prompt contains"
        with pytest.raises(openai.BadRequestError, match=known):
            client.completions.create(model=model, prompt="x" * 300, stream=stream)
        with pytest.raises(openai.BadRequestError, match=known):
            client.chat.completions.create(model=model, messages=asked, stream=stream)
