"""Spans with sizes, on OpenTelemetry's own provider; no engine, no collector."""

import os
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from boomerang_core.errors import SettingsError
from boomerang_core.sizes import SizeRow, SizeTable
from server import tracing
from server.settings import read_settings
from server.tracing import NoSpans, SizeSpans, prepare_tracing

ROWS = tuple(SizeRow(n, f"{n + 1}m", 4, 10**6, 2 * 10**6, 1000, True) for n in range(2))
TABLE = SizeTable("tiny", ROWS)
ENDPOINT = "http://127.0.0.1:4317"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def test_a_span_says_the_size_and_is_the_callers_child(exported: InMemorySpanExporter) -> None:
    with SizeSpans(TABLE).around(1, HEADERS) as named:
        assert not exported.get_finished_spans()
        assert not trace.get_current_span().get_span_context().is_valid
    span = only(exported)
    assert span.attributes == {"boomerang.size": "2m", "gen_ai.response.model": "tiny@2m"}
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)
    child = {"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01", "tracestate": "vendor=1"}
    assert named == child


def test_a_request_without_a_caller_begins_a_trace(exported: InMemorySpanExporter) -> None:
    with SizeSpans(TABLE).around(0, None) as named:
        pass
    span = only(exported)
    assert span.parent is None
    assert named is not None
    assert named["traceparent"].split("-")[1] == f"{span.context.trace_id:032x}"


def test_a_caller_that_is_not_sampled_stays_so(exported: InMemorySpanExporter) -> None:
    with SizeSpans(TABLE).around(0, {"traceparent": f"00-{TRACE}-{CALLER}-00"}) as named:
        pass
    assert not exported.get_finished_spans()
    assert named is not None
    assert named["traceparent"].endswith("-00")


def test_a_span_ends_with_a_request_that_fails(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="broken"), SizeSpans(TABLE).around(0, None):
        raise ValueError("broken")
    assert only(exported).end_time is not None


def test_without_traces_the_headers_pass_through() -> None:
    with NoSpans().around(0, HEADERS) as named:
        assert named is HEADERS


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "opentelemetry.exporter.otlp"
    monkeypatch.setattr(tracing, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(SettingsError, match=f"{missing} is missing"):
        prepare_tracing(read_settings(otlp_traces_endpoint=ENDPOINT))
    prepare_tracing(read_settings())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "boomerang"),
        ({"OTEL_SERVICE_NAME": "llm"}, "llm"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "zone=a,service.name=llm"}, None),
    ],
)
def test_the_service_has_a_name_unless_the_environment_gives_one(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], name: str | None
) -> None:
    settings = read_settings(otlp_traces_endpoint=ENDPOINT)
    monkeypatch.setattr(os, "environ", given)
    prepare_tracing(settings)
    assert os.environ.get("OTEL_SERVICE_NAME") == name
