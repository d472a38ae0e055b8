"""A client that stops reading, and an engine that stops stepping, on a real server."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import psutil
import pytest

from boomerang_core.family import Family
from tests.api.servers import CONTEXT, Running, start
from tests.api.test_server_death import (
    LONG,
    process_of,
    read_stream,
    total,
    wait_until_held,
)

pytestmark = pytest.mark.engine

HANG_SECONDS = 15
"""Far above the first step, which takes 2.5 seconds on two idle cores."""
STALL_SECONDS = 0.5
WITHIN_SECONDS = HANG_SECONDS + 10
"""From the last step to the end: the bound, the notice, and what an end takes on a busy machine."""


def narrow_connection(url: httpx.URL) -> socket.socket:
    """A connection that takes little that is not read: some 130 kB, with the server's kernel.

    By default the kernel would take megabytes before the server had to wait.
    """
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.settimeout(60)
    client.connect((url.host, url.port or 80))
    return client


def stop_reading(url: str) -> socket.socket:
    """Ask for a long stream, read its first bytes, and no more."""
    body = json.dumps({**LONG, "stream": True, "logprobs": 5}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    client = narrow_connection(httpx.URL(url))
    client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def check_stalled(url: str) -> None:
    """The engine is freed of a request that nobody reads, before it is through with it.

    On a busy machine the kernel may be the one that ends the connection, which is not counted.
    """
    in_flight = "boomerang_requests_in_flight{"
    with stop_reading(url):
        assert total(url, in_flight) == LONG["n"]
        deadline = time.monotonic() + 120
        while total(url, in_flight) or total(url, "vllm:num_requests_running{"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert 0 < total(url, "vllm:generation_tokens_total{") < LONG["n"] * LONG["max_tokens"]


def check_hung(running: Running) -> None:
    """As an engine that died: `/live` fails, clients are told, the status is not 0."""
    url = running.url
    engine = psutil.Process(process_of(running, "VLLM::EngineCore"))
    below = psutil.Process(running.process.pid).children(recursive=True)
    engine.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        completions = f"{url}/v1/completions"
        stream = pool.submit(read_stream, completions, LONG, Event())
        whole = pool.submit(httpx.post, completions, json=LONG, timeout=60, verify=CONTEXT)
        stopped = time.monotonic()
        wait_until_held(url, 2 * LONG["n"])
        while httpx.get(f"{url}/live", verify=CONTEXT).status_code == 200:
            assert time.monotonic() - stopped < WITHIN_SECONDS
            time.sleep(0.02)
        assert time.monotonic() - stopped > HANG_SECONDS - 1
        assert httpx.get(f"{url}/ready").status_code == 503
        assert running.process.wait(WITHIN_SECONDS) == 1, running.log.read_text()
        assert whole.result().status_code == 503
        assert '"code":503' in stream.result()[0].replace(" ", "")
    printed = running.log.read_text().splitlines()
    assert "error: the engine hung: it had requests and made no step" in printed, printed
    assert psutil.wait_procs(below, timeout=5)[1] == []


def test_neither_a_stalled_client_nor_a_hung_engine_holds_on(
    tmp_path: Path, family: Family
) -> None:
    settings = {
        "BOOMERANG_HANG_SECONDS": str(HANG_SECONDS),
        "BOOMERANG_SEND_TIMEOUT_SECONDS": str(STALL_SECONDS),
    }
    running = start(family, tmp_path / "log", **settings)
    running.wait_until_ready()
    check_stalled(running.url)
    assert httpx.get(f"{running.url}/live").status_code == 200
    check_hung(running)
