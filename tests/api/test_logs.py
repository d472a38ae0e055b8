"""JSON logs of a real server: an object a line, one line for each request, no secrets."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.servers import start

pytestmark = pytest.mark.engine

SECRET = "the-prompt-that-nobody-may-log"


def test_json_logs_and_auto_by_default(family: Family, tmp_path: Path) -> None:
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "info", "DEFAULT_SIZE": "auto"}
    running = start(
        family, tmp_path / "log", **{f"BOOMERANG_{name}": value for name, value in settings.items()}
    )
    try:
        running.wait_until_ready()
        reply = httpx.post(
            f"{running.url}/v1/completions",
            json={"prompt": SECRET, "max_tokens": 4, "ignore_eos": True},
            headers={"x-request-id": "abc", "authorization": f"Bearer {SECRET}"},
            timeout=60,
        )
        assert reply.headers["x-boomerang-reason"] == "auto:unmeasured"
        bad = {"prompt": SECRET, "size": "huge"}
        httpx.post(f"{running.url}/v1/completions", json=bad, headers={"x-request-id": "bad"})
        assert httpx.get(f"{running.url}/v1/sizes").json()["default"] == "auto"
    finally:
        running.process.terminate()
    running.assert_ended_cleanly()
    text = running.log.read_text()
    assert SECRET not in text
    printed = text.splitlines()
    ready = next(i for i, line in enumerate(printed) if "is ready" in line)
    # While they load, libraries print progress and warnings that are no log records.
    logged = [line for line in printed[:ready] if line.startswith("{")] + printed[ready:]
    lines: list[dict[str, Any]] = [json.loads(line) for line in logged]
    assert {"level", "logger", "message", "timestamp", "pid"} <= set.intersection(*map(set, lines))
    assert any(line["logger"].startswith("vllm") for line in lines)
    assert len({line["pid"] for line in lines}) > 1, "the engine's process logs too"
    requests = {line["request_id"]: line for line in lines if line["logger"] == "boomerang.access"}
    served = requests["abc"]
    assert (served["status"], served["path"]) == (200, "/v1/completions")
    assert (served["size"], served["reason"]) == (family.table.teacher.id, "auto:unmeasured")
    assert served["prompt_tokens"] == len(SECRET)
    assert served["generated_tokens"] == 4
    assert 0 < served["first_token_seconds"] <= served["seconds"]
    assert 0 < served["token_seconds"] <= served["seconds"]
    assert requests["bad"]["status"] == 400
    assert "size" not in requests["bad"]
