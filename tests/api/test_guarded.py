"""The guard on a real socket, with a stand-in for the engine: keys, bodies, TLS, CORS."""

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from server.app import create_app
from server.guard.middleware import Guarding
from server.load.chooser import Chooser
from server.load.prediction import Latency
from server.memory.residency import Residency
from server.process.listening import http_config, listen
from server.settings import read_settings
from tests.api.asking import assert_error

API, ADMIN = "api-key-0123456789", "admin-key-0123456789"
BEARER = {"Authorization": f"Bearer {API}"}


class Idle:
    """An engine that lives and does nothing."""

    dead = False
    progress = None

    async def check_health(self) -> bool:
        return True

    async def resident_bytes(self) -> int:
        return 0

    def shutdown(self, timeout: float | None = None) -> None:
        pass


@pytest.fixture(scope="module")
def shipped() -> Family:
    """The shipped family; none of its weights are loaded."""
    return load_family(family_folder(Path("smollm2-135m")))


def no_more(app: FastAPI, residency: Residency) -> None:
    """The server's own routes alone."""


@contextmanager
def serving(
    family: Family, more: Callable[[FastAPI, Residency], None] = no_more, **options: Any
) -> Iterator[tuple[str, int]]:
    """The URL of a server with these settings, and its port; `more` adds routes."""
    settings = read_settings(port=0, max_model_len=64, **options)
    guarding = Guarding.of(settings)
    objective = Latency(settings.first_token_seconds, settings.token_seconds)
    chooser = Chooser.of(family.table, objective, settings.max_num_seqs)
    residency = Residency(family, 1 << 20, None)
    app, lifecycle = create_app(
        settings, family, residency, chooser, guarding, registry=CollectorRegistry()
    )
    lifecycle.loaded(Idle())
    config = http_config(app, settings)
    server = app.state.server = uvicorn.Server(config)
    listening = app.state.listening = listen(settings)
    more(app, residency)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{port}", port
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def guarded(shipped: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("keys")
    for name, key in (("api", API), ("admin", ADMIN)):
        (folder / name).write_text(key)
    with serving(
        shipped,
        api_keys_file=folder / "api",
        admin_keys_file=folder / "admin",
        max_body_bytes=10_000,
        cors_origins="https://page.example",
    ) as running:
        yield running


def send(port: int, head: str, piece: bytes, most: int) -> tuple[bytes, int]:
    """Send a head and then pieces until the server answers; (answer, bytes of body sent)."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"POST /v1/sizes/resolve HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        connection.settimeout(0.05)
        sent, answer = 0, b""
        while not answer and sent < most:
            connection.sendall(piece)
            sent += len(piece)
            try:
                answer = connection.recv(10_000)
            except TimeoutError:
                continue
        connection.settimeout(5)
        while more := connection.recv(10_000):
            answer += more
        return answer, sent


def test_a_chunked_body_is_refused_before_its_end(guarded: tuple[str, int]) -> None:
    """Nobody reads on: the answer comes while the client still sends, and the socket closes."""
    head = f"Authorization: Bearer {API}\r\nTransfer-Encoding: chunked"
    piece = b"7d0\r\n" + b" " * 2000 + b"\r\n"
    answer, sent = send(guarded[1], head, piece, most=10**6)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":413' in answer
    assert sent < 10 * len(piece)


def test_bodies_that_arrive_are_bounded_together(guarded: tuple[str, int]) -> None:
    """Sixteen of the largest, whose clients take their time; then there is room again."""
    head = "POST /v1/sizes/resolve HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n"
    start = f"{head}Authorization: Bearer {API}\r\n\r\n".encode() + b" " * 9999
    with ExitStack() as stack:
        for _ in range(16):
            connection = socket.create_connection(("127.0.0.1", guarded[1]), timeout=10)
            stack.enter_context(connection).sendall(start)
        refused = first_with(429, guarded[0])
        assert refused.headers["retry-after"] == "1"
        assert "of other requests are on their way" in refused.json()["error"]["message"]
    first_with(200, guarded[0])


def first_with(status: int, url: str) -> httpx.Response:
    """The first answer with that status to a request whose body comes in two parts."""
    deadline = time.monotonic() + 5
    while True:
        parts = iter([b'{"context_tokens": 9', b"}" + b" " * 9000])
        headers = {**BEARER, "content-type": "application/json"}
        reply = httpx.post(f"{url}/v1/sizes/resolve", content=parts, headers=headers)
        if reply.status_code == status:
            return reply
        assert time.monotonic() < deadline, reply.text


def test_a_declared_length_is_refused_before_the_body(guarded: tuple[str, int]) -> None:
    head = f"Authorization: Bearer {API}\r\nContent-Length: 10001"
    answer, sent = send(guarded[1], head, b" ", most=100)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent <= 2


def test_a_client_that_sends_all_before_it_reads_gets_the_answer(guarded: tuple[str, int]) -> None:
    for _ in range(10):
        reply = httpx.post(
            f"{guarded[0]}/v1/sizes/resolve", content=b" " * (5 << 20), headers=BEARER
        )
        assert reply.status_code == 413


def test_without_a_key_a_body_is_not_read(guarded: tuple[str, int]) -> None:
    answer, sent = send(guarded[1], "Transfer-Encoding: chunked", b"1\r\nx\r\n", most=1000)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in answer
    assert sent <= 12


def test_load_balancers_may_ask_without_a_body(guarded: tuple[str, int]) -> None:
    for path in ("/live", "/ready", "/health"):
        reply = httpx.head(f"{guarded[0]}{path}")
        assert (reply.status_code, reply.content) == (200, b"")


def test_refusals_are_counted_and_keys_are_nowhere(
    guarded: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = guarded[0]
    for key in (ADMIN, "wrong-key-0123456789"):
        reply = httpx.get(f"{url}/v1/sizes", headers={"Authorization": f"Bearer {key}"})
        assert reply.status_code == 401
        assert key not in reply.text
    assert httpx.get(f"{url}/v1/sizes", headers=BEARER).status_code == 200
    metrics = httpx.get(f"{url}/metrics").text
    assert 'boomerang_refusals_total{reason="unauthorized"} 0.0' not in metrics
    assert 'boomerang_refusals_total{reason="budget"} 0.0' in metrics  # there from the start
    assert API not in metrics
    assert API not in caplog.text


def test_the_openai_client_knows_the_refusals(guarded: tuple[str, int]) -> None:
    import openai

    url = f"{guarded[0]}/v1"
    assert openai.OpenAI(base_url=url, api_key=API, max_retries=0).models.list()
    with pytest.raises(openai.AuthenticationError, match="not an API key"):
        openai.OpenAI(base_url=url, api_key="sk-unknown", max_retries=0).models.list()


STAINLESS = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
"""What OpenAI's client for browsers sends."""


def test_pages_of_the_named_origin_may_ask(guarded: tuple[str, int]) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    for origin, allowed in (("https://page.example", True), ("https://evil.example", False)):
        headers = {"Origin": origin, **BEARER}
        reply = httpx.get(f"{guarded[0]}/v1/sizes", headers=headers)
        assert (reply.headers.get("access-control-allow-origin") == origin) is allowed
        headers = {**asked, "Origin": origin, "Access-Control-Request-Headers": STAINLESS}
        before = httpx.options(f"{guarded[0]}/v1/completions", headers=headers)
        assert (before.status_code == 200) is allowed


def test_no_origin_may_ask_by_default(shipped: Family) -> None:
    with serving(shipped) as (url, _):
        reply = httpx.get(f"{url}/v1/sizes", headers={"Origin": "https://page.example"})
        assert reply.status_code == 200
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_tls(shipped: Family, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} "
        f"-addext subjectAltName=IP:127.0.0.1 -out {certificate}",
        shell=True,
        check=True,
        capture_output=True,
    )
    with serving(shipped, tls_cert_file=certificate, tls_key_file=key) as (url, _):
        trusted = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{url}/v1/sizes", verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/v1/sizes")


def test_a_connection_sends_what_it_has_at_once() -> None:
    """Or a reply's body would wait for the client to acknowledge its headers: 40 ms."""
    with (
        listen(read_settings(port=0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_does_not_say_that_it_is_json(
    guarded: tuple[str, int], content_type: str | None
) -> None:
    """`curl -d` alone says it is a form."""
    asked = (
        ("POST", "/v1/sizes/resolve", b'{"size": "student"}', API),
        ("PUT", "/admin/memory-budget", b'{"memory_budget": "lots"}', ADMIN),
    )
    for method, path, body, key in asked:
        headers = {"Authorization": f"Bearer {key}"}
        if content_type is not None:
            headers["content-type"] = content_type
        reply = httpx.request(method, f"{guarded[0]}{path}", content=body, headers=headers)
        assert "must be application/json" in assert_error(reply, 415, None)
        for good in ("application/json", "application/JSON; charset=utf-8"):
            headers["content-type"] = good
            reply = httpx.request(method, f"{guarded[0]}{path}", content=body, headers=headers)
            assert reply.status_code != 415, reply.text


def test_only_completions_count_as_refused(guarded: tuple[str, int]) -> None:
    """Or a dry run, a look-up and the operator would raise `BoomerangRefusals`."""
    url, _ = guarded

    def refusals() -> dict[str, float]:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        counts = (line.split() for line in lines if line.startswith("boomerang_refusals_total{"))
        return {name: float(count) for name, count in counts}

    before = refusals()
    admin = {"Authorization": f"Bearer {ADMIN}"}
    for method, path, body, headers in (
        ("POST", "/v1/sizes/resolve", {"memory_budget": "1KiB"}, BEARER),
        ("POST", "/v1/sizes/resolve", {"size": "huge", "concurrency": "many"}, BEARER),
        ("GET", "/v1/models/gpt-4", None, BEARER),
        ("PUT", "/admin/memory-budget", {"memory_budget": "lots"}, admin),
        ("PUT", "/admin/memory-budget", {"budget": 1}, admin),
    ):
        reply = httpx.request(method, f"{url}{path}", json=body, headers=headers)
        assert reply.status_code in (400, 404), reply.text
    assert refusals() == before
    httpx.get(f"{url}/v1/models/gpt-4")
    assert refusals() != before, "one without a key"
