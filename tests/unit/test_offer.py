"""What `/metrics` says of the sizes offered and of the memory budget, as it changes."""

import asyncio

from prometheus_client import CollectorRegistry

from server.memory.residency import Residency
from server.metrics import Offer
from tests.unit.test_memory_budget import KV, SHIPPED, Engine, budget


def said(registry: CollectorRegistry) -> tuple[list[str], float | None]:
    """The sizes at 1, of all that there are, and the budget; None where there is no such series."""
    samples = [each for metric in registry.collect() for each in metric.samples]
    sizes = {s.labels["size"]: s.value for s in samples if s.name == "boomerang_size_offered"}
    assert list(sizes) == [row.id for row in SHIPPED.table.offered]
    assert set(sizes.values()) <= {0, 1}
    budgets = [s.value for s in samples if s.name == "boomerang_memory_budget_bytes"]
    assert len(budgets) <= 1
    return [size for size, value in sizes.items() if value], budgets[0] if budgets else None


def test_they_follow_a_changed_budget() -> None:
    residency, registry = Residency(SHIPPED, KV, None), CollectorRegistry()
    registry.register(Offer(SHIPPED, residency))
    ids = [row.id for row in SHIPPED.table.offered]
    assert said(registry) == (ids, None)
    asyncio.run(residency.change(budget(5), Engine(residency)))
    assert said(registry) == (ids[:6], budget(5))
    asyncio.run(residency.change(None, Engine(residency)))
    assert said(registry) == (ids, None)
