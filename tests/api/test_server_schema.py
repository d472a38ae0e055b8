"""schemathesis makes requests out of our own OpenAPI description: none may get a 5xx.

The fast tier makes a few hundred; the slow one, 2,000 and more.
"""

import operator
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.api.conftest import ADMIN_KEY
from tests.api.servers import Running
from tests.api.test_server_limits import GOOD, wait_until_idle

pytestmark = pytest.mark.engine

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)  # as described, and not
BODIES = 7  # operations that take a body: there most can go wrong
ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Once upon a time"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Once upon a time"}]},
    "/v1/responses": {"input": "Once upon a time"},
}
MOST = dict.fromkeys(ASKED, "max_tokens") | {"/v1/responses": "max_output_tokens"}
"""The field that bounds an answer."""
OPERATOR = {"authorization": f"Bearer {ADMIN_KEY}"}
RARELY = st.sampled_from([False, False, False, True])
EVERY = 10  # requests between two that are plain
SHARE = 8  # of the examples of such an operation, those of any other


def shorten(path: str, body: dict[str, Any], sized: bool, answerable: bool) -> None:
    """Ask for one short answer; by a size only where `sized`: most random ones do not exist.

    Where `answerable`, there is something to answer: the schema requires no prompt, so that most
    random bodies have none.
    """
    if path in ASKED:
        body[MOST[path]] = 1
        body.pop("n", None)
    if path in ASKED and answerable:
        body.pop("prompt_embeds", None)  # never taken
        body.update(ASKED[path])
    if not sized:
        for name in ("model", "size", "memory_budget", "min_size", "max_size"):
            body.pop(name, None)


def assert_answers(url: str) -> None:
    """A plain request is answered, whatever the ones before it asked for or changed.

    How many random bodies are answered is chance, and not the same chance everywhere: Hypothesis
    also draws constants out of the modules that are imported from the working tree.
    """
    for path, asked in ASKED.items():
        reply = httpx.post(url + path, json={**asked, MOST[path]: 1}, timeout=60)
        assert reply.status_code == 200, reply.text
        usage = reply.json()["usage"]
        assert usage.get("completion_tokens", usage.get("output_tokens")) == 1


def run_operations(url: str, examples: int) -> Counter[tuple[str, int]]:
    """Requests for every operation, as the operator; how often each path gave each status."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()
    with_body = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        with_body += bool(operation.body)
        count = examples if operation.body else max(1, examples // SHARE)
        for mode in MODES:
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue  # nothing in it could be wrong

            @settings(
                max_examples=count,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(
                case=operation.as_strategy(generation_mode=mode),
                sized=RARELY,
                answerable=RARELY.map(operator.not_),
            )
            def once(case: schemathesis.Case, sized: bool, answerable: bool) -> None:
                if isinstance(case.body, dict):
                    shorten(case.path, case.body, sized, answerable)
                reply = case.call(headers=OPERATOR, timeout=60)
                case.validate_response(reply, checks=[not_a_server_error])
                statuses[case.path, reply.status_code] += 1
                if statuses.total() % EVERY == 0:
                    assert_answers(url)

            once()
    assert with_body == BODIES
    return statuses


@pytest.mark.parametrize(
    ("examples", "least"),
    [
        pytest.param(20, 150, id="short"),
        pytest.param(400, 2000, id="long", marks=(pytest.mark.slow, pytest.mark.timeout(1800))),
    ],
)
def test_no_request_that_the_schema_allows_or_forbids_gets_a_5xx(
    server: Running, http: httpx.Client, examples: int, least: int
) -> None:
    good = http.post("/v1/completions", json=GOOD).json()["choices"]
    statuses = run_operations(server.url, examples)
    print(dict(statuses))
    assert statuses.total() >= least
    for path in ASKED:  # or nothing but refusals was tried at random
        assert statuses[path, 200]
    every_size = http.put("/admin/memory-budget", json={"memory_budget": None}, headers=OPERATOR)
    assert every_size.status_code == 200
    assert http.post("/v1/completions", json=GOOD).json()["choices"] == good
    wait_until_idle(http)
