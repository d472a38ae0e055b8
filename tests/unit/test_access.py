"""The line of a request that fails, and its reply: both carry the id."""

import logging

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.access import AccessLog
from server.app import Gate
from server.errors import install_handlers
from server.lifecycle import Lifecycle
from server.logs import ACCESS, logging_config
from server.settings import read_settings


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    install_handlers(app)
    app.add_middleware(Gate, lifecycle=Lifecycle())
    app.add_middleware(AccessLog)

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("a secret")

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize("given", ["abc", None])
def test_a_bug_is_told_with_its_request_id(
    client: TestClient, caplog: pytest.LogCaptureFixture, given: str | None
) -> None:
    with caplog.at_level(logging.INFO, logger=ACCESS):
        reply = client.get("/bug", headers={"x-request-id": given} if given else {})
    found = reply.headers["x-request-id"]
    assert found == given if given else len(found) == 32
    assert reply.json()["error"]["message"] == "internal error"
    (line,) = (record for record in caplog.records if record.name == ACCESS)
    assert (line.request_id, line.status) == (found, 500)  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["text", "json"])
def test_requests_are_logged_at_any_level(form: str) -> None:
    levels = logging_config(read_settings(log_format=form, log_level="error"))["loggers"]
    assert levels["boomerang"]["level"] == "INFO"
    assert levels["vllm"]["level"] == "ERROR"
