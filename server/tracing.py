"""OpenTelemetry: what it needs, and a span of ours for each request that says its size.

vLLM makes a span `llm_request` for each answer, with times and token counts; it knows no sizes.
Ours is its parent, and the child of whatever the client's `traceparent` names:

    (client's span) ──> boomerang_request ──> llm_request, one an answer
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Protocol

from boomerang_core.errors import SettingsError
from boomerang_core.sizes import SizeTable
from server.settings import Settings

SPAN = "boomerang_request"
SIZE = "boomerang.size"
MODEL = "gen_ai.response.model"
"""OpenTelemetry's own name for what answered: here the family with the size, as in the reply."""

_MODULES = (
    "opentelemetry",
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "opentelemetry.exporter.otlp",
    "opentelemetry.exporter.otlp.proto",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
)
"""What vLLM imports for traces, whatever the protocol; each after the package that holds it."""

Headers = Mapping[str, str]
"""`traceparent` and `tracestate`, as they travel over HTTP."""


class Spans(Protocol):
    """Makes a span around a request at a size."""

    def around(self, size: int, headers: Headers | None) -> AbstractContextManager[Headers | None]:
        """The span, from entry to exit; gives the headers that name it as a parent."""
        ...


class NoSpans:
    """Where no traces are wanted: vLLM gets the client's headers, and ignores them."""

    def around(self, size: int, headers: Headers | None) -> AbstractContextManager[Headers | None]:
        """Nothing around the request."""
        return nullcontext(headers)


class SizeSpans:
    """Spans of the tracer provider that vLLM has set up in this process."""

    def __init__(self, table: SizeTable) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = trace.get_tracer("boomerang")
        self._propagator = TraceContextTextMapPropagator()
        self._attributes = {
            row.size: {SIZE: row.id, MODEL: table.model_id(row)} for row in table.rows
        }

    @contextmanager
    def around(self, size: int, headers: Headers | None) -> Iterator[Headers | None]:
        """A span with the size; it is nobody's current span, since generators change tasks."""
        span = self._tracer.start_span(
            SPAN,
            context=self._propagator.extract(headers or {}),
            kind=self._trace.SpanKind.SERVER,
            attributes=self._attributes[size],
        )
        named: dict[str, str] = {}
        self._propagator.inject(named, self._trace.set_span_in_context(span))
        try:
            yield named
        finally:
            span.end()


def prepare_tracing(settings: Settings) -> None:
    """Before vLLM is imported: name the service in the spans, unless the environment does.

    Raises `SettingsError` where traces are wanted and OpenTelemetry is not installed.
    """
    if settings.otlp_traces_endpoint is None:
        return
    for module in _MODULES:
        if find_spec(module) is None:
            raise SettingsError(
                "otlp_traces_endpoint needs the packages opentelemetry-sdk and "
                f"opentelemetry-exporter-otlp: {module} is missing"
            )
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "boomerang")
