"""The FastAPI app: our routes from the first moment, the OpenAI ones once the engine is there."""

from typing import Any

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from boomerang_core.family import Family, naive_quality
from server.guard.middleware import Guard, Guarding
from server.guard.sending import BoundedSend
from server.load.chooser import Chooser
from server.memory.residency import Residency
from server.metrics import Metrics, Offer
from server.process.lifecycle import Lifecycle
from server.routes.admin import admin_router
from server.routes.health import health_router
from server.routes.page import page_router
from server.routes.sizes import sizes_router
from server.settings import Settings
from server.web.access import AccessLog
from server.web.drain import Drain
from server.web.errors import install_handlers
from server.web.gate import Gate
from server.web.request_ids import REQUEST_ID

_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["*"],  # OpenAI's clients send some of their own; cookies are not allowed
    "expose_headers": [
        REQUEST_ID,
        "retry-after",
        "x-boomerang-size",
        "x-boomerang-reason",
        "x-boomerang-footprint-bytes",
    ],
}


def create_app(
    settings: Settings,
    family: Family,
    residency: Residency,
    chooser: Chooser,
    guarding: Guarding,
    registry: CollectorRegistry = REGISTRY,
) -> tuple[FastAPI, Lifecycle]:
    """The app of a family and its lifecycle; nothing is loaded yet."""
    metrics = Metrics(family, registry)
    registry.register(Offer(family, residency))
    lifecycle = Lifecycle(on_ready=metrics.set_ready)
    app = FastAPI(
        title="Boomerang",
        description=f"Every size of {family.name}.",
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # behind TLS that ends elsewhere, it would redirect to http://
    )
    app.state.metrics = metrics
    install_handlers(app)
    app.include_router(health_router(lifecycle, metrics))
    sizes = sizes_router(
        lambda: residency.policy, chooser, settings.max_model_len, naive_quality(family)
    )
    app.include_router(sizes)
    if settings.page:
        app.include_router(page_router())
    if settings.admin_keys_file is not None:
        app.include_router(admin_router(residency, lifecycle, metrics))
    app.add_middleware(Guard, guarding=guarding, metrics=metrics)
    app.add_middleware(BoundedSend, seconds=settings.send_timeout_seconds, metrics=metrics)
    app.add_middleware(Drain, lifecycle=lifecycle)
    app.add_middleware(Gate, lifecycle=lifecycle)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)
    app.add_middleware(AccessLog, on_response=metrics.responded)  # the last one is the outermost
    return app, lifecycle
