"""A pod that ends under load loses no request: preStop, SIGTERM, grace, as the chart sets them."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.api.servers import Running
from tests.deploy.charts import SERVE, only, pod_spec, render
from tests.deploy.kubelet import Ending, Endpoint, end

CLIENTS = 6


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent, and what went wrong, if anything did."""

    sent: float
    problem: str


def ask(url: str, stream: bool) -> str:
    """Send one request over a connection of its own; an empty text where all is well."""
    body = {"prompt": "x", "max_tokens": 40, "ignore_eos": True, "stream": stream}
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as reply:
            text = reply.read().decode()
    except httpx.HTTPError as error:
        return repr(error)
    if reply.status_code != 200:
        return text
    if stream:
        *_, last, done = filter(None, text.splitlines())
        text, ended = last.removeprefix("data: "), done == "data: [DONE]"
        if not ended:
            return done
    reason = json.loads(text)["choices"][0]["finish_reason"]
    return "" if reason == "length" else f"finished by {reason}"


def client(endpoint: Endpoint, stream: bool) -> list[Answer]:
    """Ask again and again while the balancer sends requests here."""
    answers = []
    while not endpoint.gone.is_set():
        sent = time.monotonic()
        answers.append(Answer(sent, ask(endpoint.url, stream)))
    return answers


@pytest.mark.engine
@pytest.mark.slow
def test_no_request_fails_while_a_pod_ends(pod: Running) -> None:
    """Last of this tier that uses the session's server: it ends it."""
    running, ending = pod, Ending.of(pod_spec(only(render(SERVE, {}), "Deployment")))
    endpoint = Endpoint(running.url, ending)
    threading.Thread(target=endpoint.watch, daemon=True).start()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, endpoint, index % 2 == 0) for index in range(CLIENTS)]
        time.sleep(2)
        deleted = time.monotonic()
        status, seconds = end(running, ending)
        answers = [answer for each in clients for answer in each.result()]
    late = [answer for answer in answers if answer.sent > deleted + ending.pre_stop]
    print(f"{len(answers)} requests, {len(late)} after SIGTERM, ended in {seconds:.1f} s")
    assert [answer.problem for answer in answers if answer.problem] == []
    assert late, "no request was sent after SIGTERM: the test shows nothing"
    assert status == 0
    assert seconds < ending.grace
