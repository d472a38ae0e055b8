"""Whether a family fits, said in one line before the engine is started.

vLLM finds out too, in a process of its own, and says it in a traceback of sixty lines.
"""

import os
from typing import Any

from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from boomerang_core.kv_groups import kv_bytes
from boomerang_core.memory_plan import MemoryPlan, default_kv_bytes, kv_bytes_for
from boomerang_core.sizes import format_bytes
from server.settings import Settings


def with_kv_cache(settings: Settings, family: Family, budget: int | None) -> Settings:
    """The settings with a KV cache, chosen where none is stated; `family` as below."""
    if settings.kv_cache_bytes is not None:
        return settings
    per_token = kv_bytes(family, settings.tensor_parallel_size)[-1]
    limits = settings.max_model_len, settings.max_num_seqs
    chosen = default_kv_bytes(family, budget, per_token, *limits)
    return settings.model_copy(update={"kv_cache_bytes": chosen})


def kv_tokens(family: Family, settings: Settings) -> tuple[int, ...]:
    """Tokens that the KV cache holds, by size; `family` as for `require_kv_cache`."""
    return tuple(
        settings.kv_bytes // each for each in kv_bytes(family, settings.tensor_parallel_size)
    )


def require_kv_cache(family: Family, settings: Settings) -> None:
    """Raise `SettingsError` where the KV cache cannot hold one request of `max_model_len`.

    `family`: with the footprints of the served format.
    """
    per_token = kv_bytes(family, settings.tensor_parallel_size)[-1]
    needed = kv_bytes_for(settings.max_model_len, 1, per_token)
    if needed > settings.kv_bytes:
        raise SettingsError(
            f"kv_cache_bytes: {format_bytes(settings.kv_bytes)} cannot hold one request of "
            f"max_model_len = {settings.max_model_len} tokens, which takes {format_bytes(needed)}"
        )


def require_context(config: Any, settings: Settings) -> None:
    """Raise `SettingsError` where `max_model_len` is longer than the teacher can read.

    `config`: the teacher's, of transformers.  How far scaled positions reach is left to vLLM, and
    so is all where it is told to take any length.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("factor") or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") != "0":
        return
    names = ("max_position_embeddings", "model_max_length")  # vLLM takes the longer one
    most = max(getattr(config, name, None) or 0 for name in names)
    if most and settings.max_model_len > most:
        raise SettingsError(
            f"max_model_len: {settings.max_model_len} tokens are more than the teacher can read: "
            f"{most} at most"
        )


def require_memory(plan: MemoryPlan, settings: Settings, available: int) -> None:
    """Raise `SettingsError` where a plan's weights and the KV cache are more than `available`."""
    if plan.weight_bytes + settings.kv_bytes > available:
        raise SettingsError(
            f"not enough memory: the weights take {format_bytes(plan.weight_bytes)} and "
            f"kv_cache_bytes is {format_bytes(settings.kv_bytes)}, with "
            f"{format_bytes(available)} available"
        )
