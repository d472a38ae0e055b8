"""The middleware, in front of an app that is not ours; no engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from server.guard.limits import Limits
from server.guard.middleware import REQUEST_SLOTS, Guard, Guarding
from server.web.errors import install_handlers
from tests.unit.guarding import ADMIN, API, OTHER, guarding

__all__ = ["guarding"]  # a fixture

LIMITS = Limits(1000, 60.0, None, 4, 2, None, 6)


class Refusals(list[str]):
    """The part of `Metrics` that the guard uses."""

    def refused(self, reason: str) -> None:
        self.append(reason)


def app_behind(guarding: Guarding, refusals: Refusals) -> FastAPI:
    app = FastAPI()
    app.state.metrics = refusals
    install_handlers(app)
    app.state.running = asyncio.Event()
    app.state.go = asyncio.Event()

    @app.post("/v1/echo")
    async def echo(body: dict[str, Any], request: Request) -> dict[str, Any]:
        if choices := body.get("choices"):
            request.scope[REQUEST_SLOTS].take(choices)
        if body.get("wait"):
            app.state.running.set()
            await app.state.go.wait()
        return {"got": len(body)}

    @app.get("/live")
    @app.get("/")
    @app.get("/page/page.js")
    @app.get("/v1/sizes")
    @app.put("/admin/memory-budget")
    async def there() -> str:
        return "there"

    app.add_middleware(Guard, guarding=guarding, metrics=refusals)
    return app


def run(
    guarding: Guarding, work: Callable[[httpx.AsyncClient, FastAPI], Awaitable[None]]
) -> Refusals:
    """Run `work` with a client of the guarded app; the reasons of what was refused."""
    refusals = Refusals()

    async def inside() -> None:
        app = app_behind(guarding, refusals)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://guarded") as client:
            await work(client, app)

    asyncio.run(inside())
    return refusals


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_all_but_probes_and_page_need_a_key(guarding: Guarding) -> None:
    async def work(client: httpx.AsyncClient, app: FastAPI) -> None:
        for path in ("/live", "/", "/page/page.js"):
            assert (await client.get(path)).status_code == 200
        for method, path in (
            ("GET", "/v1/sizes"),
            ("GET", "/nowhere"),
            ("GET", "/openapi.json"),
            ("GET", "/docs"),
            ("POST", "/"),
            ("POST", "/page/page.js"),
            ("GET", "/live/../v1/sizes"),
            ("GET", "/live/"),
            ("OPTIONS", "/v1/sizes"),
            ("PUT", "/admin/memory-budget"),
            ("GET", "/admin"),
        ):
            for headers in ({}, bearer("wrong-key-0123456789"), {"Authorization": f"Basic {API}"}):
                reply = await client.request(method, path, headers=headers)
                assert reply.status_code == 401, (method, path, headers)
                assert reply.headers["www-authenticate"].startswith("Bearer")
                assert reply.json()["error"]["type"] == "AuthenticationError"
        for key in (API, OTHER):
            assert (await client.get("/v1/sizes", headers=bearer(key))).status_code == 200
        lower = {"authorization": f"bearer {API}"}
        assert (await client.get("/v1/sizes", headers=lower)).status_code == 200

    assert set(run(guarding, work)) == {"unauthorized"}


def test_admin_and_api_keys_open_different_doors(guarding: Guarding) -> None:
    async def work(client: httpx.AsyncClient, app: FastAPI) -> None:
        admin, api = bearer(ADMIN), bearer(API)
        assert (await client.put("/admin/memory-budget", headers=admin)).status_code == 200
        assert (await client.put("/admin/memory-budget", headers=api)).status_code == 401
        assert (await client.get("/v1/sizes", headers=admin)).status_code == 401

    run(guarding, work)


def test_without_keys_all_is_open_but_admin() -> None:
    async def work(client: httpx.AsyncClient, app: FastAPI) -> None:
        assert (await client.get("/v1/sizes")).status_code == 200
        assert (await client.put("/admin/memory-budget")).status_code == 404

    run(Guarding(LIMITS), work)


@pytest.mark.parametrize("size", [1000, 1001, 50_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded_with_and_without_a_length(size: int, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        text = b'{"a":"' + b"x" * (size - 8) + b'"}'
        for start in range(0, size, 100):
            yield text[start : start + 100]

    async def work(client: httpx.AsyncClient, app: FastAPI) -> None:
        headers = {"content-type": "application/json"}
        if not chunked:
            headers["content-length"] = str(size)
        reply = await client.post("/v1/echo", content=pieces(), headers=headers)
        assert reply.status_code == (200 if size == 1000 else 413)
        if size > 1000:
            assert reply.json()["error"]["code"] == 413
            assert reply.headers["connection"] == "close"

    assert run(Guarding(LIMITS), work) == (["too_large"] if size > 1000 else [])


def test_a_key_may_run_so_many_requests(guarding: Guarding) -> None:
    async def work(client: httpx.AsyncClient, app: FastAPI) -> None:
        async def ask(key: str, **body: Any) -> httpx.Response:
            return await client.post("/v1/echo", json=body, headers=bearer(key))

        first = asyncio.create_task(ask(API, wait=True))
        await app.state.running.wait()
        second = await ask(API)
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert (await ask(OTHER)).status_code == 200
        app.state.go.set()
        assert (await first).status_code == 200
        assert (await ask(API)).status_code == 200

    assert run(guarding, work) == ["too_many"]


def test_the_queue_is_bounded_and_slots_come_back() -> None:
    async def work(client: httpx.AsyncClient, app: FastAPI) -> None:
        async def ask(**body: Any) -> httpx.Response:
            return await client.post("/v1/echo", json=body)

        first = asyncio.create_task(ask(choices=4, wait=True))
        await app.state.running.wait()
        assert (await ask(choices=2)).status_code == 200
        full = await ask(choices=3)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        app.state.go.set()
        assert (await first).status_code == 200
        assert (await ask(choices=6)).status_code == 200
        app.state.go.clear()
        app.state.running.clear()
        gone = asyncio.create_task(ask(choices=6, wait=True))
        await app.state.running.wait()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert (await ask(choices=6)).status_code == 200

    assert run(Guarding(LIMITS), work) == ["queue_full"]
