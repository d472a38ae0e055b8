"""Probes and metrics.

`/live`: restart me when this fails.  `/ready`: send me requests while this is 200.  `/health`:
the engine answers.
"""

from http import HTTPStatus

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from boomerang_core.versions import boomerang_version, vllm_version
from server.metrics import Metrics
from server.process.lifecycle import Lifecycle
from server.web.errors import error_response

_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


def health_router(lifecycle: Lifecycle, metrics: Metrics) -> APIRouter:
    """`/live`, `/ready`, `/health`, `/metrics` and `/version`."""
    router = APIRouter(tags=["operations"])

    @router.get("/live")
    async def live() -> Response:
        """200 from the first moment, while loading too; 503 once the engine is dead, or hangs."""
        if lifecycle.engine_is_dead:
            return error_response(_UNAVAILABLE, "the engine is dead")
        return Response()

    @router.get("/ready")
    async def ready() -> Response:
        """503 while loading and while draining."""
        if not lifecycle.is_ready:
            return error_response(_UNAVAILABLE, f"the server is {lifecycle.state}")
        return Response()

    @router.get("/health")
    async def health() -> Response:
        """200 where the engine is loaded and answers."""
        if not await lifecycle.engine_is_healthy():
            return error_response(_UNAVAILABLE, "the engine does not answer")
        return Response()

    @router.get("/metrics")
    async def exposition() -> Response:
        """Prometheus text format: vLLM's metrics and ours."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The versions of Boomerang and of vLLM."""
        return {"version": boomerang_version(), "vllm": vllm_version()}

    for path, endpoint in (("/live", live), ("/ready", ready), ("/health", health)):
        # Load balancers ask so, and take 405 for a server that is down.
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router
