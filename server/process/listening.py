"""The socket and uvicorn's configuration: where the server listens, and how."""

import socket

import uvicorn
from fastapi import FastAPI

from boomerang_core.errors import SettingsError
from server.guard.heads import heads_within
from server.guard.sending import bound_unread
from server.settings import Settings

_BACKLOG = 2048


def http_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration, loaded; `SettingsError` for a certificate that is none."""
    config = uvicorn.Config(
        app,
        http=heads_within(settings.body_timeout_seconds),
        log_level=settings.log_level,
        log_config=None,
        access_log=False,  # ours says more
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_keep_alive=settings.keep_alive_seconds,
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
        ws="none",
        server_header=False,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or error
        raise SettingsError(f"cannot use tls_cert_file with tls_key_file: {reason}") from error
    return config


def listen(settings: Settings) -> socket.socket:
    """A listening socket; `SettingsError` where the address is taken or not ours.

    `::` takes IPv4 too, where the system can: clients of a cluster with both use either.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    address = (settings.host, settings.port)
    try:
        listening = socket.create_server(
            address,
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=settings.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise SettingsError(f"cannot listen on {where}: {error.strerror or error}") from error
    # Connections inherit it.  asyncio sets it only on sockets that name their protocol, and without
    # it a reply's body waits 40 ms for the client to acknowledge its headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound_unread(listening, settings.send_timeout_seconds)
    return listening


def url_of(listening: socket.socket, config: uvicorn.Config) -> str:
    """The address that clients ask, as a URL."""
    address, port = listening.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if config.is_ssl else 'http'}://{host}:{port}"
