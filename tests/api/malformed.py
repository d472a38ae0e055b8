"""Requests whose choice of a size makes no sense, for any family; shared by two tiers.

`{family}` in a value stands for the family's name.
"""

from typing import Any, NamedTuple


class Malformed(NamedTuple):
    """Size fields of a body, the status they must get, and the field at fault."""

    fields: dict[str, Any]
    status: int
    param: str


MALFORMED = [
    Malformed({"model": "gpt-4"}, 404, "model"),
    Malformed({"model": ""}, 404, "model"),
    Malformed({"model": "{family}@"}, 404, "model"),
    Malformed({"model": "{family}@1t"}, 404, "model"),
    Malformed({"model": "{family}@999L"}, 404, "model"),
    Malformed({"model": "other@teacher"}, 404, "model"),
    Malformed({"model": "{family}@teacher@teacher"}, 404, "model"),
    Malformed({"model": "{family}@0.75"}, 404, "model"),
    Malformed({"model": "x" * 10_000}, 404, "model"),
    Malformed({"model": "{family}@teacher", "size": "student"}, 400, "size"),
    Malformed({"model": "{family}@teacher", "memory_budget": "100GiB"}, 400, "memory_budget"),
    Malformed({"size": "teacher", "memory_budget": "100GiB"}, 400, "memory_budget"),
    Malformed({"size": ""}, 400, "size"),
    Malformed({"size": "big"}, 400, "size"),
    Malformed({"size": "auto"}, 400, "size"),
    Malformed({"size": "0m"}, 400, "size"),
    Malformed({"size": "-5m"}, 400, "size"),
    Malformed({"size": "999L"}, 400, "size"),
    Malformed({"size": "1.5"}, 400, "size"),
    Malformed({"size": "150%"}, 400, "size"),
    Malformed({"size": "0.000001"}, 400, "size"),
    Malformed({"size": 106}, 400, "size"),
    Malformed({"size": True}, 400, "size"),
    Malformed({"size": ["teacher"]}, 400, "size"),
    Malformed({"size": {"layers": 3}}, 400, "size"),
    Malformed({"size": "nan"}, 400, "size"),
    Malformed({"size": "１０６m"}, 400, "size"),
    Malformed({"size": "teacher\u0000"}, 400, "size"),
    Malformed({"memory_budget": "1KiB"}, 400, "memory_budget"),
    Malformed({"memory_budget": 1}, 400, "memory_budget"),
    Malformed({"memory_budget": 0}, 400, "memory_budget"),
    Malformed({"memory_budget": -300}, 400, "memory_budget"),
    Malformed({"memory_budget": "lots"}, 400, "memory_budget"),
    Malformed({"memory_budget": "300 parsecs"}, 400, "memory_budget"),
    Malformed({"memory_budget": 1.5}, 400, "memory_budget"),
    Malformed({"memory_budget": True}, 400, "memory_budget"),
    Malformed({"memory_budget": []}, 400, "memory_budget"),
    Malformed({"memory_budget": "1e9"}, 400, "memory_budget"),
    Malformed({"memory_budget": "9" * 400}, 400, "memory_budget"),
    Malformed({"memory_budget": 10**400}, 400, "memory_budget"),
]

MISSPELT = {
    "memory_budgt": "memory_budget",
    "memory-budget": "memory_budget",
    "memoryBudget": "memory_budget",
    "memory_budget_bytes": "memory_budget",
    "memory_bugdet": "memory_budget",
    "mem_budget": "memory_budget",
    "budget": "memory_budget",
    "sizes": "size",
    "Size": "size",
    "szie": "size",
    "model_size": "size",
    "min_size": "size",
    "max_size": "size",
    "boomerang_size": "size",
}

LEGITIMATE = [
    "metadata",
    "store",
    "stop",
    "seed",
    "service_tier",
    "safety_identifier",
    "x",
    "",
    "n",
]
"""Fields that OpenAI clients may send and vLLM does not know; they are none of our business."""


def named(value: Any, family: str) -> Any:
    """The value with the family's name put in."""
    return value.replace("{family}", family) if isinstance(value, str) else value
