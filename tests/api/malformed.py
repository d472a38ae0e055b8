"""Requests whose choice of a size makes no sense, for any family; shared by two tiers.

`{family}` in a value stands for the family's name.
"""

import json
import random
from collections.abc import Iterator
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
    Malformed({"model": "{family}@auto"}, 404, "model"),
    Malformed({"model": "{family}@teacher", "size": "auto"}, 400, "size"),
    Malformed({"model": "{family}@teacher", "max_size": "teacher"}, 400, "max_size"),
    Malformed({"size": "auto", "memory_budget": "1GiB"}, 400, "memory_budget"),
    Malformed({"size": "student", "max_size": "teacher"}, 400, "max_size"),
    Malformed({"size": "student", "min_size": "student"}, 400, "min_size"),
    Malformed({"memory_budget": "1GiB", "max_size": "teacher"}, 400, "max_size"),
    Malformed({"memory_budget": "1GiB", "min_size": "student"}, 400, "min_size"),
    Malformed({"min_size": "teacher", "max_size": "student"}, 400, "min_size"),
    Malformed({"size": "auto", "max_size": "0.000001"}, 400, "max_size"),
    Malformed({"size": "auto", "min_size": "900b"}, 400, "min_size"),
    Malformed({"min_size": "auto"}, 400, "min_size"),
    Malformed({"max_size": "big"}, 400, "max_size"),
    Malformed({"max_size": 106}, 400, "max_size"),
    Malformed({"max_size": True}, 400, "max_size"),
    Malformed({"min_size": "999L"}, 400, "min_size"),
    Malformed({"min_size": ["student"]}, 400, "min_size"),
    Malformed({"size": "automatic"}, 400, "size"),
    Malformed({"size": "0m"}, 400, "size"),
    Malformed({"size": "-5m"}, 400, "size"),
    Malformed({"size": "999L"}, 400, "size"),
    Malformed({"size": "1.5"}, 400, "size"),
    Malformed({"size": "150%"}, 400, "size"),
    Malformed({"size": "0.000001"}, 400, "size"),
    Malformed({"size": 106}, 400, "size"),
    Malformed({"size": 1.5}, 400, "size"),
    Malformed({"size": 0}, 400, "size"),
    Malformed({"min_size": -0.5}, 400, "min_size"),
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
    "minsize": "min_size",
    "max-size": "max_size",
    "maxSize": "max_size",
    "mix_size": "min_size",
    "max_sizes": "max_size",
    "max_szie": "max_size",
    "maximum_size": "max_size",
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


_VALUES: list[Any] = [
    *(value for case in MALFORMED for value in case.fields.values()),
    *("teacher", "student", "24L", "0.75", "75%", "1.9b", "300MiB", "256 KiB", "{family}@teacher"),
    *(None, True, False, 0, -1, 1, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320),
    *([], {}, [[]], [None], {"": ""}, {"size": "teacher"}, ["300MiB"]),
    *("\ud800", "\x00", "\u202eretsuoh", "é" * 50, "٣٤", "½", "∞", "NaN", "1e999", "0x10", "1_000"),
]
_FIELDS = (
    *("model", "size", "memory_budget", "min_size", "max_size", *MISSPELT, *LEGITIMATE),
    *("context_tokens", "concurrency"),
)
_OTHERS = (
    *("prompt", "messages", "n", "max_tokens", "temperature", "top_p", "logprobs", "echo", "seed"),
    *("stop", "stream", "stream_options", "logit_bias", "vllm_xargs", "prompt_embeds", "suffix"),
    *("response_format", "tools", "min_tokens", "truncate_prompt_tokens", "use_beam_search"),
)


def _bent(text: str, source: random.Random) -> str:
    """The text with a character put in, taken out or doubled."""
    place = source.randrange(len(text) + 1)
    extra = source.choice("0123456789.,+-@%eExkKmMgGbBiLl \t\n\x00é٣")
    cut = source.randrange(2)
    return text[:place] + source.choice(("", extra, extra * 2)) + text[place + cut :]


def _value(source: random.Random) -> Any:
    value = source.choice(_VALUES)
    if isinstance(value, str) and source.random() < 0.6:
        for _ in range(source.randint(1, 3)):
            value = _bent(value, source)
    return value


def size_fields(source: random.Random, family: str) -> dict[str, Any]:
    """One to three fields about sizes, most of them nonsense."""
    names = source.sample(_FIELDS, source.randint(1, 3))
    return {name: named(_value(source), family) for name in names}


def bodies(source: random.Random, family: str, body: dict[str, Any]) -> Iterator[bytes]:
    """Endless bodies for an endpoint that takes `body`: bent fields, bent JSON, no JSON."""
    while True:
        bent = {**body, **size_fields(source, family)}
        for name in source.sample(_OTHERS, source.randint(0, 2)):
            bent[name] = named(_value(source), family)
        text = json.dumps(bent).encode()
        kind = source.random()
        if kind < 0.1:
            text = text[: source.randrange(len(text))]
        elif kind < 0.2:
            place = source.randrange(len(text))
            text = text[:place] + source.randbytes(source.randint(1, 4)) + text[place + 1 :]
        elif kind < 0.23:
            text = b"[" * source.choice((100, 1000, 100_000))
        elif kind < 0.26:
            text = source.randbytes(source.randint(0, 300))
        yield text
