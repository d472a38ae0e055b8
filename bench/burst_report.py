"""What a load experiment came to: per policy and load, as JSON and as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from boomerang_core.sizes import SizeTable
from server.load.prediction import Latency

_REFUSED = (429, 503)


@dataclass(frozen=True)
class Outcome:
    """One request: its status (0: broken off), size, and latencies where it was answered.

    `reason` is why it got that size, as the server's header says.
    """

    status: int
    size: str | None
    first_token_seconds: float = math.inf
    token_seconds: float = math.inf
    reason: str | None = None

    def meets(self, objective: Latency) -> bool:
        """Whether it was answered in time."""
        return (
            self.first_token_seconds <= objective.first_token_seconds
            and self.token_seconds <= objective.token_seconds
        )


@dataclass(frozen=True)
class Cell:
    """A policy at a load.  Latencies are those of answered requests; None where none was."""

    policy: str
    load: float
    requests: int
    attained: float
    mean_params: float | None
    sizes: dict[str, int]
    reasons: dict[str, int]
    first_token_p95: float | None
    token_p95: float | None
    refused: int
    failed: int

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)

    def line(self) -> str:
        """A row of the table."""
        params = "–" if self.mean_params is None else f"{self.mean_params / 1e6:.4g}m"
        latencies = [
            "–" if value is None else f"{value:.3f}"
            for value in (self.first_token_p95, self.token_p95)
        ]
        cells = [f"{self.load:g}", self.policy, str(self.requests), f"{self.attained:.0%}"]
        cells += [params, *latencies, str(self.refused), str(self.failed)]
        return "| " + " | ".join(cells) + " |"


def summary(
    policy: str, load: float, outcomes: Sequence[Outcome], objective: Latency, table: SizeTable
) -> Cell:
    """The figures of a run; a request without an answer in time missed the objective."""
    answered = [one for one in outcomes if one.status == 200]
    params = {row.id: row.params for row in table.rows}
    sizes = Counter(one.size for one in answered if one.size is not None)
    reasons = Counter(one.reason for one in answered if one.reason and "auto" in one.reason)
    refused = sum(one.status in _REFUSED for one in outcomes)
    return Cell(
        policy=policy,
        load=load,
        requests=len(outcomes),
        attained=sum(one.meets(objective) for one in outcomes) / max(1, len(outcomes)),
        mean_params=sum(params[size] * count for size, count in sizes.items()) / sizes.total()
        if sizes
        else None,
        sizes=dict(sorted(sizes.items())),
        reasons=dict(sorted(reasons.items())),
        first_token_p95=percentile_95([one.first_token_seconds for one in answered]),
        token_p95=percentile_95([one.token_seconds for one in answered]),
        refused=refused,
        failed=len(outcomes) - len(answered) - refused,
    )


def percentile_95(values: Sequence[float]) -> float | None:
    """The least value that 95 in 100 do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1] if values else None


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"`{reason}` {count}" for reason, count in reasons.items())


def markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    objective = record["objective"]
    cells = [Cell(**cell) for cell in record["cells"]]
    return "\n".join(
        [
            f"# {record['family']} under open-loop load",
            "",
            f"`{record['command']}`, {record['date']}, commit {record['git']}, "
            f"{record['hardware']}. One run of {record['seconds']:g} s for each row, Poisson "
            f"arrivals, seed {record['seed']}; prompts of {record['prompt_tokens']} tokens, "
            f"answers of {record['answer_tokens']}. Objective: first token within "
            f"{objective['first_token_seconds']:g} s, then {objective['token_seconds']:g} s each. "
            f"Load 1 is what the teacher sustains: {record['teacher_requests_per_second']:.2f} "
            "requests/s.",
            "",
            "| load | policy | requests | in time | mean size | p95 first token, s "
            "| p95 per token, s | refused | failed |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *(cell.line() for cell in cells),
            "",
            "Why `auto` took its sizes, in requests:",
            "",
            *(f"- load {cell.load:g}: {_counts(cell.reasons)}" for cell in cells if cell.reasons),
            "",
        ]
    )
