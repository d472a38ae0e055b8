"""Sizes that a server answers for, over HTTP."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from boomerang_core.errors import SettingsError
from boomerang_core.evaluate import tasks
from boomerang_core.evaluate.harness import Completions
from boomerang_core.evaluate.served import KEY
from boomerang_core.family import Family
from boomerang_core.sizes import Quality, SizeTable
from server.schemas import SizeBody
from tests.core.conftest import beginning_tokenizer
from tests.core.task_bench import ANSWERS, CHOICES, Bench, bench, docs

__all__ = ["bench", "docs"]  # fixtures


class Endpoint(BaseHTTPRequestHandler):
    """The completions endpoint, as vLLM answers lm-eval, around assembled models."""

    bench: Bench
    name: str
    asked: list[str]
    key: str | None = None

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.path == "/v1/models":
            card = {"id": f"{self.name}@x", "root": self.name, "max_model_len": 64}
            self._reply({"data": [card]})
            return
        assert self.path == "/v1/sizes"
        table = self.bench.family.table
        bodies = [SizeBody.of(table, row, 100).model_dump() for row in table.rows]
        self._reply({"data": bodies})

    def do_POST(self) -> None:
        if self._refused():
            return
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body["model"])
        row = self.bench.family.table.named(body["model"].partition("@")[2])
        model = self.bench.model(row.size)
        choices = [self._choice(i, ids, body, model) for i, ids in enumerate(body["prompt"])]
        self._reply({"choices": choices})

    def _choice(self, index: int, ids: list[int], body: dict[str, Any], model: Any) -> Any:
        ids_1L = torch.tensor([ids])
        limit = body["max_tokens"]
        with torch.no_grad():
            out = model.generate(ids_1L, max_new_tokens=limit, do_sample=False, pad_token_id=0)[0]
            log_probs_LV = model(out[None]).logits[0].log_softmax(-1)
        text = self.bench.tokenizer.decode(out[len(ids) :], skip_special_tokens=True)
        for stop in body.get("stop", []):
            text = text.split(stop)[0]
        own = [None] + [log_probs_LV[i, t].item() for i, t in enumerate(out[1:].tolist())]
        best = [None] + [{"best": row.max().item()} for row in log_probs_LV[:-1]]
        shown = {"token_logprobs": own, "top_logprobs": best}
        return {"index": index, "text": text, "logprobs": shown if body.get("echo") else None}

    def _refused(self) -> bool:
        refused = self.key is not None and self.headers["authorization"] != f"Bearer {self.key}"
        if refused:
            self._reply({"error": {"message": "an API key is needed"}}, 401)
        return refused

    def _reply(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def handler(bench: Bench) -> type[Endpoint]:
    """Of the requests to the bench's family."""
    return type("Bound", (Endpoint,), {"bench": bench, "name": bench.family.name, "asked": []})


@pytest.fixture
def served(bench: Bench, handler: type[Endpoint]) -> Iterator[tuple[Bench, str, list[str]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield bench, f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("settings", [CHOICES, ANSWERS])
@pytest.mark.parametrize("concurrent", [1, 3])
def test_a_server_is_asked_for_the_same(
    settings: dict[str, Any], concurrent: int, served: tuple[Bench, str, list[str]]
) -> None:
    bench, url, asked = served
    task = bench.task("ask", settings)
    here = bench.run(task, out="here", limit=4)
    there = bench.run(task, out="there", limit=4, server=f"{url}/", batch_size=concurrent)
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.accuracy == ours.accuracy
        assert theirs.tokens_per_answer == ours.tokens_per_answer
        if ours.log_likelihood is not None:
            assert theirs.log_likelihood == pytest.approx(ours.log_likelihood, rel=1e-4)
    assert set(asked) == {f"tiny@{row.id}" for row in bench.family.rows}
    assert bench.run(task, out="there", limit=4) == here  # not what the server said


def test_a_server_that_is_not_there_or_serves_another_family(
    served: tuple[Bench, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, url, _ = served
    task = bench.task("ask", CHOICES)
    with pytest.raises(
        SettingsError, match=r"the server at http://127\.0\.0\.1:9 cannot be reached$"
    ):
        bench.run(task, server="http://127.0.0.1:9")
    monkeypatch.setattr(tasks, "family_source", lambda family: {"family": "another"})
    bench.family = Family(**{**vars(bench.family), "name": "another"})
    with pytest.raises(SettingsError, match="serves no another"):
        bench.run(task, server=url)


def test_a_server_with_keys_is_sent_one(
    served: tuple[Bench, str, list[str]],
    handler: type[Endpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, url, _ = served
    handler.key = "a-key-of-the-server"
    task = bench.task("ask", CHOICES)
    monkeypatch.delenv(KEY, raising=False)
    for wrong in (None, "another-key"):
        if wrong is not None:
            monkeypatch.setenv(KEY, wrong)
        with pytest.raises(SettingsError, match="asks for an API key: set OPENAI_API_KEY"):
            bench.run(task, server=url)
    monkeypatch.setenv(KEY, handler.key)
    assert bench.run(task, limit=2, server=url)


@pytest.mark.parametrize("difference", ["measured", "shorter"])
def test_a_server_of_another_student_of_the_same_name(
    difference: str, served: tuple[Bench, str, list[str]], handler: type[Endpoint]
) -> None:
    bench, url, asked = served
    rows = bench.family.rows
    if difference == "measured":
        other = (replace(rows[0], quality=Quality(0.25, 0.5, 9.0, 100)), *rows[1:])
        told = r"kl 0\.25.* instead of .*not measured"
    else:
        other, told = rows[:-1], f"no size more instead of {rows[-1].id} of"
    there = SimpleNamespace(family=SimpleNamespace(table=SizeTable(bench.family.name, other)))
    handler.bench = cast(Bench, there)
    with pytest.raises(SettingsError, match=f"serves another tiny than .* is now: .*{told}"):
        bench.run(bench.task("ask", CHOICES), server=url)
    assert not asked


def test_a_chat_that_begins_itself_is_not_begun_twice(tmp_path: Path) -> None:
    """As lm-eval's own model does; there are templates with the begin token and without."""
    tokenizer = beginning_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    client = Completions(
        model="m",
        base_url="http://localhost",
        tokenizer=str(tmp_path),
        tokenizer_backend="huggingface",
        add_bos_token=True,
    )
    assert client.tok_encode("w4 w5") == [1, 4, 5]
    assert client.tok_encode("<s> w4 w5") == [1, 4, 5]
    assert client.tok_encode("<s> w4 w5", add_special_tokens=True) == [1, 4, 5]  # to generate
    assert client.tok_encode(["<s> w4", "w5"]) == [[1, 4], [1, 5]]
    assert client.tok_encode("w4 w5 w6", left_truncate_len=2) == [5, 6]
