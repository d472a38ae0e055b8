"""How responses are counted: by class of status, and by who cut short what did not end."""

import asyncio
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest

from boomerang_core.family import load_family
from server.app import create_app
from server.guard.middleware import Guarding
from server.load.chooser import Chooser
from server.load.prediction import Latency
from server.memory.residency import Residency
from server.metrics import Metrics
from server.settings import read_settings
from server.web.access import AccessLog
from server.web.paths import COMPLETIONS
from tests.docs.test_readme import FAMILY

SHIPPED = load_family(FAMILY)
COUNTED = {"2xx": 0, "4xx": 0, "5xx": 0, "499": 0}


def counted(registry: CollectorRegistry) -> dict[str, int]:
    """Responses by code, as `/metrics` has them."""
    samples = [each for metric in registry.collect() for each in metric.samples]
    return {
        each.labels["code"]: int(each.value)
        for each in samples
        if each.name == "boomerang_responses_total"
    }


def answer(how: str, path: str, method: str = "POST") -> dict[str, int]:
    """What is counted of one request; `how`: a status, and how its answer is cut short."""
    status, _, cut = how.partition(" ")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if status:
            await send({"type": "http.response.start", "status": int(status), "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if cut == "tells":
            event = b'data: {"error": {"code": 503}}\n\n'
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if cut == "fails":
            raise RuntimeError("a bug")
        if status and cut != "left":
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def ignore(message: Any = None) -> Any:
        return None

    registry = CollectorRegistry()
    log = AccessLog(app, Metrics(SHIPPED, registry).responded)
    scope = {"type": "http", "path": path, "method": method, "headers": []}
    try:
        asyncio.run(log(scope, ignore, ignore))
    except RuntimeError:
        assert cut == "fails"
    return counted(registry)


@pytest.mark.parametrize("path", COMPLETIONS)
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("200", "2xx"),
        ("404", "4xx"),
        ("429", "4xx"),
        ("503", "5xx"),
        ("499", "499"),
        ("", "499"),  # the client left before the answer began
        ("200 left", "499"),
        ("200 fails", "5xx"),
        ("200 tells", "5xx"),  # a stream, by its last event
        (" fails", "5xx"),
    ],
)
def test_every_response_counts_once(how: str, code: str, path: str) -> None:
    assert answer(how, path) == {**COUNTED, code: 1}


@pytest.mark.parametrize(("path", "method"), [("/v1/sizes", "POST"), (COMPLETIONS[0], "OPTIONS")])
def test_what_is_no_request_for_a_completion_does_not(path: str, method: str) -> None:
    assert answer("200", path, method) == COUNTED


def test_the_server_counts_them() -> None:
    """It has no engine yet: 503."""
    settings, registry = read_settings(), CollectorRegistry()
    objective = Latency(settings.first_token_seconds, settings.token_seconds)
    chooser = Chooser.of(SHIPPED.table, objective, settings.max_num_seqs)
    residency = Residency(SHIPPED, 1 << 20, None)
    guarding = Guarding.of(settings)
    app, _ = create_app(settings, SHIPPED, residency, chooser, guarding, registry=registry)
    assert TestClient(app).post(COMPLETIONS[1], json={}).status_code == 503
    assert counted(registry) == {**COUNTED, "5xx": 1}
    assert b'boomerang_size_offered{size="88m"} 1.0' in generate_latest(registry)
