"""Connections that keep silent, drip or have large heads: raw sockets, a small app, no engine."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from server.guard.heads import HEAD_BYTES, heads_within

IDLE, HEAD = 0.4, 0.8
WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = b"GET / HTTP/1.1\r\nHos"
SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(2 * HEAD)
        await send({"type": "websocket.send", "text": "still here"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * HEAD)
    body = scope["path"].encode()
    length = str(len(body)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=heads_within(HEAD), log_level="critical", lifespan="off", ws="auto"
    )
    config.timeout_keep_alive = IDLE  # type: ignore[assignment]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        yield client


def answer(client: socket.socket) -> bytes:
    """The next answer, and no byte more."""
    head, body = b"", b""
    while not head.endswith(b"\r\n\r\n"):
        head += received(client, 1)
    for _ in range(int(head.partition(b"content-length: ")[2].split()[0])):
        body += received(client, 1)
    return head + body


def received(client: socket.socket, most: int) -> bytes:
    piece = client.recv(most)
    assert piece, "closed"
    return piece


def until_closed(client: socket.socket) -> tuple[bytes, float]:
    """What came, and the seconds until the server closed."""
    began, data = time.monotonic(), b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1000):
            data += piece
    return data, time.monotonic() - began


@pytest.mark.parametrize(
    ("sent", "bound"), [(b"", IDLE), (b"\r\n", IDLE), (b"G", HEAD), (HALF, HEAD)]
)
@pytest.mark.parametrize("answered", [False, True])
def test_a_connection_without_a_whole_head_is_closed(
    port: int, sent: bytes, bound: float, answered: bool
) -> None:
    with connection(port) as client:
        if answered:
            client.sendall(WHOLE)
            answer(client)
        client.sendall(sent)
        data, seconds = until_closed(client)
        assert data == b""
        assert bound - 0.1 < seconds < bound + 3


def test_a_head_that_drips_is_not_waited_for(port: int) -> None:
    with connection(port) as client:
        client.settimeout(0.1)
        client.sendall(HALF)
        began, closed = time.monotonic(), False
        while not closed and time.monotonic() - began < 10:
            try:
                client.sendall(b"x")
                closed = client.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed
        assert time.monotonic() - began > HEAD - 0.1


def test_a_head_in_two_pieces_is_answered(port: int) -> None:
    with connection(port) as client:
        for _ in range(2):
            client.sendall(WHOLE[:20])
            time.sleep(HEAD / 2)
            client.sendall(WHOLE[20:])
            assert answer(client).startswith(b"HTTP/1.1 200")


def test_an_answer_may_take_longer_than_any_bound(port: int) -> None:
    """With nothing behind it, a request behind it, or half of one."""
    for behind in (b"", WHOLE, HALF):
        with connection(port) as client:
            client.sendall(SLOW + behind)
            assert answer(client).endswith(b"/slow")
            if behind == WHOLE:
                assert answer(client).endswith(b"\r\n\r\n/")
            data, seconds = until_closed(client)
            assert data == b""
            assert (HEAD if behind == HALF else IDLE) - 0.1 < seconds


def test_requests_may_come_together(port: int) -> None:
    with connection(port) as client:
        client.sendall(WHOLE * 5)
        assert all(answer(client).startswith(b"HTTP/1.1 200") for _ in range(5))


def test_a_websocket_is_left_alone(port: int) -> None:
    pytest.importorskip("websockets")
    head = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with connection(port) as client:
        client.sendall(head)
        data, _ = until_closed(client)
        assert data.startswith(b"HTTP/1.1 101")
        assert b"still here" in data


LARGE = b"x" * 8 * HEAD_BYTES
"""Far larger: what comes in one piece with the first bytes is not counted."""


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /" + LARGE + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + LARGE + b"\r\n", id="half a header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 80_000, id="many headers"),
    ],
)
def test_a_large_head_is_refused(port: int, head: bytes, answered: bool) -> None:
    """In pieces; where the client sends on, the answer may be lost."""
    with connection(port) as client:
        if answered:
            client.sendall(WHOLE)
            answer(client)
        for start in range(0, len(head), 1000):
            with suppress(ConnectionError):
                client.sendall(head[start : start + 1000])
        data, seconds = until_closed(client)
    assert seconds < HEAD / 2
    assert not data or data.startswith(b"HTTP/1.1 431 ")


def test_the_refusal_of_a_large_head_is_an_error_like_others(port: int) -> None:
    with connection(port) as client:
        in_two(client, b"GET / HTTP/1.1\r\nX: ", b"x" * (HEAD_BYTES + 1))
        data = until_closed(client)[0]
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == 431


def in_two(client: socket.socket, first: bytes, rest: bytes) -> None:
    """Send what is not counted, and then what is; the last byte decides, so no answer is lost."""
    client.sendall(first)
    time.sleep(HEAD / 4)
    client.sendall(rest)


CHUNKED = b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_large_trailers_end_the_connection(port: int) -> None:
    with connection(port) as client:
        in_two(client, CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"x" * (HEAD_BYTES + 1))
        data, seconds = until_closed(client)
    assert data == b""
    assert seconds < HEAD  # the answer would come after twice that


@pytest.mark.parametrize("size", [1, 3000])
def test_a_body_is_no_head_however_it_is_cut(port: int, size: int) -> None:
    chunks = b"%x\r\n%b\r\n" % (size, b"x" * size) * 20_000
    with connection(port) as client:
        client.sendall(CHUNKED + chunks + b"0\r\n\r\n")
        assert answer(client).endswith(b"/slow")
