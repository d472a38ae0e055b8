"""The memory budget of a real server: lowered and raised while requests run."""

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from boomerang_core.family import Family
from boomerang_core.memory_plan import Residents, Span, whole
from tests.api.asking import answer, assert_error, metric
from tests.api.conftest import ADMIN_KEY
from tests.api.servers import Running, command, environment

pytestmark = pytest.mark.engine

PATH = "/admin/memory-budget"
KEY = {"authorization": f"Bearer {ADMIN_KEY}"}
KV = 16 << 20
PADDING = 1.02  # unequal ranks in a fused map


@pytest.fixture
def admin(server: Running) -> Iterator[httpx.Client]:
    """A client with the operator's key; every size is held again at the end."""
    with httpx.Client(base_url=server.url, timeout=60, headers=KEY) as client:
        yield client
        assert client.put(PATH, json={"memory_budget": None}).status_code == 200


def weights(family: Family, largest: int) -> int:
    return Residents.of(family.served_in(4)).weight_bytes(Span(0, largest))


def test_a_lowered_budget_leaves_sizes_out_and_a_raised_one_brings_them_back(
    http: httpx.Client, admin: httpx.Client, family: Family
) -> None:
    table = family.table
    names = [table.model_id(row) for row in table.rows]
    before = {name: answer(http, name) for name in names}
    state = admin.put(PATH, json={"memory_budget": weights(family, 1) + KV}).json()
    assert state["sizes"] == names[:2]
    assert (state["weight_bytes"], state["kv_cache_bytes"]) == (weights(family, 1), KV)
    assert state["unavailable"].keys() == {row.id for row in table.rows[2:]}
    assert (state["changing"], state["running"]) == (False, [])
    held = metric(http, "boomerang_resident_bytes")
    assert weights(family, 1) <= held <= weights(family, 1) * PADDING

    rows = http.get("/v1/sizes").json()["data"]
    assert [row["offered"] for row in rows] == [True, True, False, False]
    assert "memory budget is" in rows[3]["unavailable"]
    listed = [card["id"] for card in http.get("/v1/models").json()["data"]]
    assert listed == [family.name, *names[:2]]
    for fields, status, param in (
        ({"model": names[3]}, 404, "model"),
        ({"size": "teacher"}, 400, "size"),
    ):
        reply = http.post("/v1/completions", json={"prompt": "x", **fields})
        message = assert_error(reply, status, param)
        assert message.endswith(f"offered: {table.rows[0].id}, {table.rows[1].id}")
    for fields in ({}, {"memory_budget": "1GiB"}):
        reply = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, **fields})
        assert reply.headers["x-boomerang-size"] == table.rows[1].id
    assert {name: answer(http, name) for name in names[:2]} == {n: before[n] for n in names[:2]}

    assert admin.put(PATH, json={"memory_budget": None}).json()["sizes"] == names
    every = weights(family, whole(family.design).largest)
    assert every <= metric(http, "boomerang_resident_bytes") <= every * PADDING
    assert {name: answer(http, name) for name in names} == before


def test_no_wrong_token_while_the_budget_goes_down_and_up(
    http: httpx.Client, admin: httpx.Client, family: Family
) -> None:
    """Clients ask for every size all the time: a right answer or a clear refusal, nothing else."""
    names = [family.table.model_id(row) for row in family.table.rows]
    right = {name: answer(http, name) for name in names}
    stop = threading.Event()

    def ask(name: str) -> list[int]:
        statuses = []
        body = {"model": name, "prompt": "Once", "max_tokens": 24, "temperature": 0}
        while not stop.is_set():
            reply = http.post("/v1/completions", json={**body, "ignore_eos": True})
            statuses.append(reply.status_code)
            if reply.status_code == 200:
                assert reply.json()["choices"][0]["text"] == right[name]
            else:
                assert "is not available" in assert_error(reply, 404, "model")
        return statuses

    with ThreadPoolExecutor(len(names)) as pool:
        asked = [pool.submit(ask, name) for name in names]
        try:
            for largest in (0, 3, 1, 2, 0, 3):
                budget = {"memory_budget": weights(family, largest) + KV}
                reply = admin.put(PATH, json=budget)
                assert reply.status_code == 200, reply.text
                assert reply.json()["sizes"] == names[: largest + 1]
        finally:
            stop.set()
        statuses = [result.result() for result in asked]
    assert set(statuses[0]) == {200}
    assert set(statuses[-1]) == {200, 404}


def looked_at_while_streaming(
    http: httpx.Client, admin: httpx.Client, family: Family
) -> tuple[dict[str, Any], httpx.Response, list[str]]:
    """The budget lowered to the student's while the teacher streams.

    What `/admin` says meanwhile, its reply to another change, and the stream's last lines.
    """
    name = family.table.model_id(family.table.teacher)
    body = {"model": name, "prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with (
        ThreadPoolExecutor(1) as pool,
        http.stream("POST", "/v1/completions", json={**body, "n": 24}) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        change = pool.submit(admin.put, PATH, json={"memory_budget": weights(family, 0) + KV})
        while not (change.done() or admin.get(PATH).json()["changing"]):
            time.sleep(0.01)
        state = admin.get(PATH).json()
        refused = admin.put(PATH, json={"memory_budget": None})
        chunks = [line for line in lines if line]
        assert change.result().json()["sizes"] == [family.table.model_id(family.table.student)]
    return state, refused, chunks


def test_a_stream_finishes_before_its_size_goes(
    http: httpx.Client, admin: httpx.Client, family: Family
) -> None:
    name = family.table.model_id(family.table.teacher)
    whole_answer = answer(http, name, 200)
    for _ in range(5):  # on a busy machine the stream may end before anyone looks
        state, refused, chunks = looked_at_while_streaming(http, admin, family)
        if state["running"] and refused.status_code == 409:
            break
        admin.put(PATH, json={"memory_budget": None})
    assert (state["running"], len(state["sizes"])) == ([family.table.teacher.id], 1)
    assert_error(refused, 409, None)
    assert chunks[-1] == "data: [DONE]"
    assert metric(http, "boomerang_resident_bytes") < weights(family, 1)
    admin.put(PATH, json={"memory_budget": None})
    assert answer(http, name, 200) == whole_answer


def test_a_client_that_goes_ends_the_wait(
    http: httpx.Client, admin: httpx.Client, family: Family
) -> None:
    body = {"size": "teacher", "prompt": "x", "stream": True, "max_tokens": 240}
    with http.stream("POST", "/v1/completions", json={**body, "ignore_eos": True}) as reply:
        next(reply.iter_lines())
    state = admin.put(PATH, json={"memory_budget": weights(family, 0) + KV}).json()
    assert state["running"] == []
    assert answer(http, family.table.model_id(family.table.student))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"memory_budget": "much"}, "memory_budget"),
        ({"memory_budget": 0}, "memory_budget"),
        ({"memory_budget": True}, "memory_budget"),
        ({"memory_budget": "1MiB"}, "memory_budget"),
        ({"budget": "1GiB"}, "memory_budget"),
        ({"memory_budget": "1GiB", "more": 1}, "more"),
    ],
)
def test_a_bad_budget_changes_nothing(
    admin: httpx.Client, body: dict[str, Any], param: str
) -> None:
    before = admin.get(PATH).json()
    assert_error(admin.put(PATH, json=body), 400, param)
    assert admin.get(PATH).json() == before


def test_a_server_whose_budget_fits_nothing_does_not_start(family: Family) -> None:
    done = subprocess.run(
        command(str(family.root), "--port", "0", "--memory-budget", "1MiB"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: a memory budget of 1,048,576 bytes fits no size")
    assert done.stderr.count("\n") == 1
