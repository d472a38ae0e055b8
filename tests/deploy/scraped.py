"""A running server with traffic, as a real Prometheus sees it: Debian's package `prometheus`."""

import time
from contextlib import suppress
from typing import Any

import httpx

from tests.api.servers import Running
from tests.deploy.charts import SERVE, only, render

ALERTS = only(render(SERVE, {"monitoring": {"rules": True}}), "PrometheusRule")["spec"]
SECONDS = 60


def ask(prometheus: httpx.Client, query: str) -> list[Any]:
    """The samples of an instant query; an error of the query fails the test."""
    reply = prometheus.get("/query", params={"query": query})
    assert reply.status_code == 200, (query, reply.text)
    found: list[Any] = reply.json()["data"]["result"]
    return found


def wait_for(queries: set[str], pod: Running, prometheus: httpx.Client) -> None:
    """Send requests until every query has data."""
    deadline = time.monotonic() + SECONDS
    while queries:
        send(pod)
        with suppress(httpx.TransportError):  # Prometheus is starting
            queries = {query for query in queries if not ask(prometheus, query)}
        assert time.monotonic() < deadline, sorted(queries)


def send(pod: Running) -> None:
    """Two answers and a refusal, so that every counter moves."""
    for size, status in (("student", 200), ("teacher", 200), ("huge", 400)):
        body = {"prompt": "hello", "size": size, "max_tokens": 5, "ignore_eos": True}
        reply = httpx.post(f"{pod.url}/v1/completions", json=body, timeout=60)
        assert reply.status_code == status, reply.text
    time.sleep(0.5)
