"""The metrics of the real server, by size."""

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.asking import ENDPOINTS, GREEDY, metric

pytestmark = pytest.mark.engine


def test_metrics_are_labelled_by_size(http: httpx.Client, family: Family) -> None:
    name = f'boomerang_requests_total{{reason="size",size="{family.table.student.id}"}}'
    before, refused = metric(http, name), metric(http, "boomerang_refusals_total")
    codes = [f'boomerang_responses_total{{code="{code}"}}' for code in ("2xx", "4xx")]
    were = [metric(http, code) for code in codes]
    http.post("/v1/completions", json={"prompt": "x", "size": "student", **GREEDY})
    http.post("/v1/completions", json={"prompt": "x", "size": "huge"})
    assert metric(http, name) == before + 1
    assert metric(http, "boomerang_refusals_total") == refused + 1
    assert [metric(http, code) for code in codes] == [count + 1 for count in were]
    assert metric(http, "boomerang_resident_bytes") > 0
    assert metric(http, "boomerang_ready") == 1


def test_tokens_and_latencies_are_counted_by_size(http: httpx.Client, family: Family) -> None:
    label = f'{{size="{family.table.student.id}"}}'
    names = [
        f"boomerang_{name}{label}"
        for name in (
            "prompt_tokens_total",
            "generated_tokens_total",
            "request_seconds_count",
            "first_token_seconds_count",
            "token_seconds_count",
        )
    ]
    student = label.strip("{}")
    rows = [f'boomerang_step_rows_total{{kind="{k}",{student}}}' for k in ("decode", "prompt")]
    body = {"size": "student", "prompt": "hello", "n": 2, "seed": 1, "ignore_eos": True}
    for stream in (False, True):
        before = [metric(http, name) for name in names]
        steps = metric(http, "boomerang_step_sizes_count")
        ran = [metric(http, name) for name in rows]
        http.post("/v1/completions", json={**body, "max_tokens": 12, "stream": stream})
        gained = [metric(http, name) - was for name, was in zip(names, before, strict=True)]
        assert gained == [5, 24, 1, 1, 1]
        assert metric(http, "boomerang_step_sizes_count") >= steps + 12
        # a first token comes of the prompt, which is shorter than a block of the prefix cache
        decoded, prompts = (metric(http, name) - was for name, was in zip(rows, ran, strict=True))
        assert (decoded, prompts) == (22, 10)
    assert metric(http, f"boomerang_requests_in_flight{label}") == 0


def test_two_sizes_in_a_step_are_seen(http: httpx.Client) -> None:
    def run(size: str) -> int:
        # many and long, so that they meet, however fast a step is
        body = {"size": size, "prompt": "x", "max_tokens": 200, "ignore_eos": True, "n": 40}
        return http.post("/v1/completions", json=body).status_code

    def mixed() -> float:
        one = metric(http, 'boomerang_step_sizes_bucket{le="1.0"}')
        return metric(http, "boomerang_step_sizes_count") - one

    before, tries = mixed(), 5  # on a busy machine one may end before the other begins
    while mixed() == before and tries:
        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(run, ["student", "teacher"])) == {200}
        tries -= 1
    assert mixed() > before


def test_metric_names_follow_prometheus(http: httpx.Client) -> None:
    """promtool's rules that can be broken by a name: base units, `_total` on counters alone."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("# TYPE boomerang_"):
            name, kind = line.split()[2:4]
            assert not re.search(r"_(ms|milliseconds|minutes|mb|mib|percent|count|sum)$", name)
            created = name.endswith("_created")  # of the client library
            assert created or name.endswith("_total") == (kind == "counter"), line


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_vllm_refuses_did_not_run(http: httpx.Client, path: str) -> None:
    names = ("boomerang_requests_total", 'boomerang_refusals_total{reason="malformed"}')
    before = [metric(http, name) for name in names]
    asked = {"include": ["message.output_text.logprobs"]} if path == "/v1/responses" else {}
    for fields in ({"temperature": -1}, asked | {"logprobs": 10**6, "top_logprobs": 10**6}):
        assert http.post(path, json={**ENDPOINTS[path], **fields}).status_code == 400, fields
    assert http.post(path, content=b"{}").status_code == 415
    assert http.post(path, json={**ENDPOINTS[path], "size": 0.999}).status_code == 200
    assert [metric(http, name) for name in names] == [before[0] + 1, before[1] + 3]


@pytest.mark.parametrize("stream", [False, True])
def test_a_rank_that_is_not_there_is_refused_before_an_answer(
    http: httpx.Client, stream: bool
) -> None:
    body = {"prompt": "x", "max_tokens": 2, "stream": stream}
    reply = http.post("/v1/completions", json=body, headers={"X-data-parallel-rank": "7"})
    assert reply.status_code == 400, reply.text
