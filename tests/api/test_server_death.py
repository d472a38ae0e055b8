"""The engine's processes are killed: every client is told, and the server ends within 5 seconds."""

import json
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from boomerang_core.family import Family
from tests.api.servers import CONTEXT, Running, start

pytestmark = pytest.mark.engine

LONG: dict[str, Any] = {"prompt": "x", "ignore_eos": True, "max_tokens": 240, "n": 128}
ONE_BY_ONE = {"BOOMERANG_MAX_NUM_SEQS": "1", "BOOMERANG_MAX_WAITING": "300"}
"""Two such requests last minutes: on busy cores a process may wait for its turn for seconds."""
LONG_RESPONSE: dict[str, Any] = {"input": "x", "ignore_eos": True, "max_output_tokens": 200}
WITHIN_SECONDS = 5


def process_of(running: Running, name: str) -> int:
    """The id of one of vLLM's processes, by the name that vLLM gives it."""
    children = psutil.Process(running.process.pid).children(recursive=True)
    titles = {" ".join(child.cmdline()) or child.name(): child.pid for child in children}
    found = [pid for title, pid in titles.items() if name in title]
    assert len(found) == 1, titles
    return found[0]


def read_stream(url: str, body: dict[str, Any]) -> tuple[str, float]:
    """The last event of a stream, and when it came."""
    asked = {**body, "stream": True}
    with httpx.stream("POST", url, json=asked, timeout=60, verify=CONTEXT) as stream:
        lines = [line for line in stream.iter_lines() if line]
    if "prompt" in body:
        assert lines.pop() == "data: [DONE]"
    return lines[-1].removeprefix("data: "), time.monotonic()


def wait_until_held(url: str, count: int) -> None:
    """Wait until the engine holds so many answers, running or waiting for their turn."""
    held, deadline = 0.0, time.monotonic() + 60
    while held < count:
        assert time.monotonic() < deadline, f"{held} answers held, not {count}"
        time.sleep(0.02)
        held = total(url, "vllm:num_requests_running{", "vllm:num_requests_waiting{")


def wait_until_begun(url: str, streams: int) -> None:
    """Wait until so many streams were sent their status."""
    deadline = time.monotonic() + 60
    while total(url, "boomerang_requests_total{") < streams:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def total(url: str, *names: str) -> float:
    """Metrics of one moment, summed over their labels."""
    lines = httpx.get(f"{url}/metrics", timeout=60, verify=CONTEXT).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


@pytest.mark.parametrize(
    "victim", ["VLLM::EngineCore", pytest.param("VLLM::Worker", marks=pytest.mark.slow)]
)
def test_the_end_of_the_engine_is_the_servers(tmp_path: Path, family: Family, victim: str) -> None:
    running = start(family, tmp_path / "log", **ONE_BY_ONE)
    running.wait_until_ready()
    url = running.url
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(read_stream, f"{url}/v1/completions", LONG)]
        whole: Future[httpx.Response] = pool.submit(
            httpx.post, f"{url}/v1/completions", json=LONG, timeout=60, verify=CONTEXT
        )
        wait_until_held(url, LONG["n"] + 1)  # so of both requests
        # It waits behind all those answers.
        streams.append(pool.submit(read_stream, f"{url}/v1/responses", LONG_RESPONSE))
        wait_until_begun(url, len(streams))
        os.kill(process_of(running, victim), signal.SIGKILL)
        killed = time.monotonic()
        while httpx.get(f"{url}/live", verify=CONTEXT).status_code == 200:
            assert time.monotonic() - killed < WITHIN_SECONDS
            time.sleep(0.02)
        assert httpx.get(f"{url}/ready").status_code == 503
        late = httpx.post(f"{url}/v1/completions", json=LONG)
        assert running.process.wait(WITHIN_SECONDS) == 1, running.log.read_text()
        assert time.monotonic() - killed < WITHIN_SECONDS
        errors = []
        for stream in streams:
            last, told = stream.result()
            errors.append(json.loads(last)["error"])
            assert told - killed < WITHIN_SECONDS
    assert {error["code"] for error in errors} == {503}
    assert whole.result().status_code == late.status_code == 503
    assert all(int(reply.headers["retry-after"]) > 0 for reply in (whole.result(), late))
    for reply in (*errors, whole.result().json()["error"]):
        assert reply["message"] == "the engine has died; the server is stopping"
    printed = running.log.read_text().splitlines()
    assert any(line.startswith("error: the engine has died") for line in printed), printed
    assert sum(" status=200 ended=broken " in line for line in printed) == 2, printed  # the streams
