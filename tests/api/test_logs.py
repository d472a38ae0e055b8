"""JSON logs of a real server: an object a line, one line for each request, no secrets."""

import json
import time
from typing import Any

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.servers import Running

pytestmark = pytest.mark.engine

SECRET = "the-prompt-that-nobody-may-log"


def records(running: Running) -> list[dict[str, Any]]:
    """All that it has logged; once it is ready, it prints nothing else."""
    printed = running.log.read_text().splitlines()
    ready = next(i for i, line in enumerate(printed) if "is ready" in line)
    # While they load, libraries print progress and warnings that are no log records.
    logged = [line for line in printed[:ready] if line.startswith("{")] + printed[ready:]
    return [json.loads(line) for line in logged]


def requests(running: Running, *names: str) -> dict[str, dict[str, Any]]:
    """The lines of requests by their ids, as soon as those are there."""
    deadline = time.monotonic() + 10
    while True:
        lines = [line for line in records(running) if line["logger"] == "boomerang.access"]
        found = {line["request_id"]: line for line in lines}
        if found.keys() >= set(names):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_json_logs_and_auto_by_default(other: Running, family: Family) -> None:
    """What it logs at its end is read where it ends, in `test_stopping`."""
    other.wait_until_ready()
    reply = httpx.post(
        f"{other.url}/v1/completions",
        json={"prompt": SECRET, "max_tokens": 4, "ignore_eos": True},
        headers={"x-request-id": "abc", "authorization": f"Bearer {SECRET}"},
        timeout=60,
    )
    assert reply.headers["x-boomerang-reason"] == "auto:unmeasured"
    bad = {"prompt": SECRET, "size": "huge"}
    httpx.post(f"{other.url}/v1/completions", json=bad, headers={"x-request-id": "bad"})
    assert httpx.get(f"{other.url}/v1/sizes").json()["default"] == "auto"

    asked = requests(other, "abc", "bad")
    lines = records(other)
    assert {"level", "logger", "message", "timestamp", "pid"} <= set.intersection(*map(set, lines))
    assert any(line["logger"].startswith("vllm") for line in lines)
    assert len({line["pid"] for line in lines}) > 1, "the engine's process logs too"
    served = asked["abc"]
    assert (served["status"], served["path"]) == (200, "/v1/completions")
    assert (served["size"], served["reason"]) == (family.table.teacher.id, "auto:unmeasured")
    assert served["prompt_tokens"] == len(SECRET)
    assert served["generated_tokens"] == 4
    assert 0 < served["first_token_seconds"] <= served["seconds"]
    assert 0 < served["token_seconds"] <= served["seconds"]
    assert asked["bad"]["status"] == 400
    assert "size" not in asked["bad"]
    assert SECRET not in other.log.read_text()
