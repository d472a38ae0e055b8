"""A server that merges deltas as it reads them: the same answers, a full student's memory."""

from collections.abc import Iterator

import httpx
import pytest

from boomerang_core.family import Family
from boomerang_core.memory_plan import Residents, Span, whole
from tests.api.asking import answer, metric
from tests.api.conftest import ADMIN_KEY
from tests.api.servers import CONTEXT, Running, start

pytestmark = pytest.mark.engine

KV = 16 << 20


@pytest.fixture(scope="module")
def merging(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server, loaded."""
    folder = tmp_path_factory.mktemp("merge")
    (folder / "keys").write_text(f"{ADMIN_KEY}\n")
    settings = {"BOOMERANG_MERGE": "true", "BOOMERANG_ADMIN_KEYS_FILE": str(folder / "keys")}
    running = start(family, folder / "log", **settings)
    running.wait_until_ready()
    yield running
    running.process.terminate()
    running.assert_ended_cleanly()


def weights(family: Family, span: Span) -> int:
    return Residents.of(family.served_in(4).merged_when_read()).weight_bytes(span)


def answers(url: str, family: Family, sizes: int) -> list[str]:
    with httpx.Client(base_url=url, verify=CONTEXT, timeout=60) as http:
        return [answer(http, family.table.model_id(row)) for row in family.table.rows[:sizes]]


def test_it_answers_as_one_with_deltas_and_through_changes_of_its_budget(
    merging: Running, server: Running, family: Family
) -> None:
    every = whole(family.design)
    expected = answers(server.url, family, len(family.rows))
    assert answers(merging.url, family, len(family.rows)) == expected
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=merging.url, headers=headers, verify=CONTEXT, timeout=60) as admin:
        assert metric(admin, "boomerang_resident_bytes") == weights(family, every)
        small = weights(family, Span(0, 1))
        state = admin.put("/admin/memory-budget", json={"memory_budget": small + KV}).json()
        assert len(state["sizes"]) == 2
        assert metric(admin, "boomerang_resident_bytes") == small
        assert answers(merging.url, family, 2) == expected[:2]
        admin.put("/admin/memory-budget", json={"memory_budget": None})
        assert metric(admin, "boomerang_resident_bytes") == weights(family, every)
    assert answers(merging.url, family, len(family.rows)) == expected


def test_it_says_so_when_it_is_ready(merging: Running) -> None:
    assert "is ready: 4 sizes, deltas merged" in merging.log.read_text()
