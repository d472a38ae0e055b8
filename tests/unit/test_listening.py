"""The address that is printed when the server listens."""

import socket
from contextlib import closing

import pytest
from fastapi import FastAPI

from server.guard.heads import BoundedHeads
from server.process.listening import http_config, listen, url_of
from server.settings import read_settings


@pytest.mark.parametrize(("host", "printed"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_printed_address_is_a_url(host: str, printed: str) -> None:
    settings = read_settings(host=host, port=0)
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with closing(listen(settings)) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening, http_config(FastAPI(), settings)) == f"http://{printed}:{port}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
def test_all_addresses_are_those_of_both_kinds(client: str) -> None:
    with closing(listen(read_settings(host="::", port=0))) as listening:
        socket.create_connection((client, listening.getsockname()[1]), timeout=5).close()


def test_heads_are_bounded() -> None:
    """As bodies are; what the bound does is in `test_heads`."""
    protocol = http_config(FastAPI(), read_settings(body_timeout_seconds=7)).http_protocol_class
    assert issubclass(protocol, BoundedHeads)
    assert protocol.head_seconds == 7
