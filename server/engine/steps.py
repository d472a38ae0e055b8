"""The sizes of a step, on their way from the scheduler to the front end.

vLLM sends `SchedulerStats` with each step; its two maps of adapter names to counts are empty here,
since the engine serves no adapters, and carry size → decoding rows and size → prompt tokens.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def composition(
    requests: Iterable[tuple[int, int, int, int]],
) -> tuple[dict[str, int], dict[str, int]]:
    """Size → decoding rows, size → prompt tokens.

    Of each request: its size, the tokens of this step, those computed before, those of its prompt.
    """
    rows: dict[str, int] = {}
    prompts: dict[str, int] = {}
    for size, scheduled, before, prompt in requests:
        counts, count = (rows, scheduled) if before >= prompt else (prompts, scheduled)
        counts[str(size)] = counts.get(str(size), 0) + count
    return rows, prompts


def put_step(scheduler_stats: Any, rows: Mapping[str, int], prompts: Mapping[str, int]) -> None:
    """Write a step into vLLM's statistics of it."""
    scheduler_stats.running_lora_adapters.update(rows)
    scheduler_stats.waiting_lora_adapters.update(prompts)


def step_of(scheduler_stats: Any) -> tuple[dict[int, int], dict[int, int]]:
    """Size → decoding rows, size → prompt tokens, of a step."""
    return (
        {int(size): count for size, count in scheduler_stats.running_lora_adapters.items()},
        {int(size): count for size, count in scheduler_stats.waiting_lora_adapters.items()},
    )
