"""OpenTelemetry's spans of a real server, at a real collector on loopback."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from boomerang_core.family import Family
from tests.api.servers import Running, start

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ENDPOINT = "BOOMERANG_OTLP_TRACES_ENDPOINT"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROMPT = "the-prompt-that-nobody-may-trace"
BODY = {"prompt": PROMPT, "max_tokens": 4, "ignore_eos": True}


class Collector(service.TraceServiceServicer):
    """Keeps the spans that arrive, and the names of the services that sent them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        for sent in request.resource_spans:
            self.services.add(attributes(sent.resource)["service.name"])
            self.spans += [span for scope in sent.scope_spans for span in scope.spans]
        return messages.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


Listening = Callable[[Collector], AbstractContextManager[dict[str, str]]]


def attributes(holder: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


def ask(running: Running, headers: dict[str, str], **fields: Any) -> str:
    """The id of the answer."""
    reply = httpx.post(
        f"{running.url}/v1/completions", json={**BODY, **fields}, headers=headers, timeout=60
    )
    return str(reply.raise_for_status().json()["id"])


@contextmanager
def over_grpc(kept: Collector) -> Iterator[dict[str, str]]:
    """The settings that send spans to a collector by gRPC."""
    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield {ENDPOINT: f"http://127.0.0.1:{port}"}
    server.stop(None).wait()


@contextmanager
def over_http(kept: Collector) -> Iterator[dict[str, str]]:
    """The settings that send spans to a collector by HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.Export(messages.ExportTraceServiceRequest.FromString(body), None)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing to say."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        protocol = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
        yield {ENDPOINT: f"http://127.0.0.1:{server.server_port}/v1/traces", **protocol}
        server.shutdown()


@pytest.mark.parametrize("listening", [over_grpc, over_http])
def test_spans_say_the_size_under_the_callers_trace(
    listening: Listening, family: Family, tmp_path: Path
) -> None:
    kept = Collector()
    small = family.table.model_id(family.table.offered[0])
    with listening(kept) as settings:
        running = start(family, tmp_path / "log", **settings)
        try:
            running.wait_until_ready()
            traced = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            of_caller = ask(running, traced, model=small)
            of_nobody = ask(running, {}, size="teacher", n=2)
        finally:
            running.process.terminate()
        running.assert_ended_cleanly()  # which sends what has not been sent

    assert kept.services == {"boomerang"}
    assert kept.named("Load model"), "the engine's own processes send spans too"
    ours = {
        attributes(span)["gen_ai.response.model"]: span for span in kept.named("boomerang_request")
    }
    teacher = family.table.model_id(family.table.teacher)
    assert ours.keys() == {small, teacher}
    assert attributes(ours[small])["boomerang.size"] == family.table.offered[0].id
    assert ours[small].trace_id.hex() == TRACE
    assert ours[small].parent_span_id.hex() == CALLER
    assert not ours[teacher].parent_span_id

    answers = kept.named("llm_request")
    parents = sorted(span.parent_span_id for span in answers)
    assert parents == sorted([ours[small].span_id, *[ours[teacher].span_id] * 2])
    for span in answers:
        told = attributes(span)
        name = of_caller if span.parent_span_id == ours[small].span_id else of_nobody
        assert told["gen_ai.request.id"].startswith(name)
        assert told["gen_ai.usage.prompt_tokens"] == len(PROMPT)
        assert told["gen_ai.usage.completion_tokens"] == BODY["max_tokens"]
        assert 0 < told["gen_ai.latency.time_to_first_token"] <= told["gen_ai.latency.e2e"]
    assert PROMPT not in str(kept.spans)


def test_a_collector_that_is_not_there_harms_no_request(family: Family, tmp_path: Path) -> None:
    nobody = {ENDPOINT: "http://127.0.0.1:9"}  # the discard port
    running = start(family, tmp_path / "log", **nobody)
    try:
        running.wait_until_ready()
        assert ask(running, {}, size="teacher")
    finally:
        running.process.terminate()
    assert running.process.wait(60) == 0, running.log.read_text()
