"""Whether a family fits, said in one line before the engine is started.

vLLM finds out too, in a process of its own, and says it in a traceback of sixty lines.
"""

from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from boomerang_core.residency import Plan
from boomerang_core.sizes import format_bytes
from server.engine.kv_groups import choose_groups, layer_ranks
from server.settings import Settings


def require_kv_cache(family: Family, settings: Settings) -> None:
    """Raise `SettingsError` where the KV cache cannot hold one request of `max_model_len`.

    `family`: with the footprints of the served format.  The engine keeps layers in groups, the last
    of which may have places left over.
    """
    ranks = layer_ranks(family.design)
    held = choose_groups(ranks).held(max(ranks) + 1)
    per_token = family.table.teacher.kv_bytes_per_token * held // len(ranks)
    needed = per_token * settings.max_model_len
    if needed > settings.kv_cache_bytes:
        raise SettingsError(
            f"kv_cache_bytes: {format_bytes(settings.kv_cache_bytes)} cannot hold one request of "
            f"max_model_len = {settings.max_model_len} tokens, which takes {format_bytes(needed)}"
        )


def require_memory(plan: Plan, settings: Settings, available: int) -> None:
    """Raise `SettingsError` where a plan's weights and the KV cache are more than `available`."""
    if plan.weight_bytes + settings.kv_cache_bytes > available:
        raise SettingsError(
            f"not enough memory: the weights take {format_bytes(plan.weight_bytes)} and "
            f"kv_cache_bytes is {format_bytes(settings.kv_cache_bytes)}, with "
            f"{format_bytes(available)} available"
        )
