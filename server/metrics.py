"""Our metrics, beside vLLM's own in the same registry.  Label values are bounded sets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from boomerang_core.family import Family
from server.sizing import Decision


class Metrics:
    """Counters and gauges of one server, registered in `registry`."""

    def __init__(self, family: Family, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests = Counter(
            "boomerang_requests",
            "Requests whose size was decided, by size and reason.",
            ("size", "reason"),
            registry=registry,
        )
        self._refusals = Counter(
            "boomerang_refusals",
            "Requests refused before they reached the engine.",
            ("reason",),
            registry=registry,
        )
        self._resident = Gauge(
            "boomerang_resident_bytes",
            "Bytes of weights that the engine holds for all sizes; 0 until it is loaded.",
            registry=registry,
        )
        self._ready = Gauge(
            "boomerang_ready", "1 while the server takes requests.", registry=registry
        )
        footprint = Gauge(
            "boomerang_size_footprint_bytes",
            "Bytes that an offered size would take standing alone.",
            ("size",),
            registry=registry,
        )
        for row in family.table.offered:
            footprint.labels(row.id).set(row.footprint_bytes(family.footprint_tokens))

    def decided(self, decision: Decision) -> None:
        """Count a request whose size is known."""
        self._requests.labels(decision.row.id, decision.reason.value).inc()

    def refused(self, reason: str) -> None:
        """Count a refusal; `reason` comes from `errors.refusal_of`."""
        self._refusals.labels(reason).inc()

    def set_ready(self, ready: bool) -> None:
        """Follow the state of the server."""
        self._ready.set(int(ready))

    def set_resident(self, amount: int) -> None:
        """Bytes of weights that the engine reported."""
        self._resident.set(amount)

    def exposition(self) -> bytes:
        """Everything in the registry, vLLM's metrics included, in the Prometheus text format."""
        return generate_latest(self._registry)
