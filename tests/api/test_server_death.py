"""The engine's processes are killed: every client is told, and the server ends within 5 seconds."""

import json
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import pytest

from boomerang_core.family import Family
from tests.api.servers import CONTEXT, Running, start

pytestmark = pytest.mark.engine

LONG: dict[str, Any] = {"prompt": "x", "ignore_eos": True, "max_tokens": 240, "n": 79}
LONG_RESPONSE: dict[str, Any] = {"input": "x", "ignore_eos": True, "max_output_tokens": 200}
WITHIN_SECONDS = 5


def process_of(running: Running, name: str) -> int:
    """The id of one of vLLM's processes, by the name that vLLM gives it."""
    children = psutil.Process(running.process.pid).children(recursive=True)
    titles = {" ".join(child.cmdline()) or child.name(): child.pid for child in children}
    found = [pid for title, pid in titles.items() if name in title]
    assert len(found) == 1, titles
    return found[0]


def read_stream(url: str, body: dict[str, Any], begun: Event) -> tuple[str, float]:
    """The last event of a stream, and when it came; `begun` is set at the first."""
    asked = {**body, "stream": True}
    lines = []
    with httpx.stream("POST", url, json=asked, timeout=60, verify=CONTEXT) as stream:
        for line in stream.iter_lines():
            lines += [line] if line else []
            begun.set()
    if "prompt" in body:
        assert lines.pop() == "data: [DONE]"
    return lines[-1].removeprefix("data: "), time.monotonic()


def wait_until_held(url: str, count: int) -> None:
    """Wait until the server has so many answers in flight; a stream's status has then been sent.

    Whether the engine runs or not: these tests stop it first, as on a busy machine it may be
    through with a minute's work before a test looks again.
    """
    deadline = time.monotonic() + 60
    while (held := total(url, "boomerang_requests_in_flight{")) < count:
        assert time.monotonic() < deadline, f"{held} answers held, not {count}"
        time.sleep(0.02)


def wait_until_begun(url: str, streams: int) -> None:
    """Wait until so many streams were sent their status."""
    deadline = time.monotonic() + 60
    while total(url, "boomerang_requests_total{") < streams:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def total(url: str, name: str) -> float:
    """A metric, summed over its labels."""
    lines = httpx.get(f"{url}/metrics", timeout=60, verify=CONTEXT).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    "victim", ["VLLM::EngineCore", pytest.param("VLLM::Worker", marks=pytest.mark.slow)]
)
def test_the_end_of_the_engine_is_the_servers(tmp_path: Path, family: Family, victim: str) -> None:
    running = start(family, tmp_path / "log")
    running.wait_until_ready()
    url = running.url
    engine = process_of(running, "VLLM::EngineCore")
    os.kill(engine, signal.SIGSTOP)
    begun = Event()  # the first token is there
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(read_stream, f"{url}/v1/completions", LONG, begun)]
        whole: Future[httpx.Response] = pool.submit(
            httpx.post, f"{url}/v1/completions", json=LONG, timeout=60, verify=CONTEXT
        )
        wait_until_held(url, 2 * LONG["n"])
        # It waits behind all those answers.
        streams.append(pool.submit(read_stream, f"{url}/v1/responses", LONG_RESPONSE, Event()))
        wait_until_begun(url, len(streams))
        to_kill = process_of(running, victim)
        os.kill(engine, signal.SIGCONT)
        assert begun.wait(60)
        os.kill(to_kill, signal.SIGKILL)
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
