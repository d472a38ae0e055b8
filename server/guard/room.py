"""Whether a family fits, said in one line before the engine is started.

vLLM finds out too, in a process of its own, and says it in a traceback of sixty lines.
"""

from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from boomerang_core.footprint import resident_params
from boomerang_core.sizes import format_bytes
from server.settings import Settings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def require_kv_cache(family: Family, settings: Settings) -> None:
    """Raise `SettingsError` where the KV cache cannot hold one request of `max_model_len`."""
    stored = family.shape.bytes_per_param
    served = _BYTES.get(settings.dtype, stored)
    a_token = family.table.teacher.kv_bytes_per_token * served // stored
    needed = a_token * settings.max_model_len
    if needed > settings.kv_cache_bytes:
        raise SettingsError(
            f"kv_cache_bytes: {format_bytes(settings.kv_cache_bytes)} cannot hold one request of "
            f"max_model_len = {settings.max_model_len} tokens, which takes {format_bytes(needed)}"
        )


def require_memory(family: Family, settings: Settings, available: int) -> None:
    """Raise `SettingsError` where weights and KV cache are more than the bytes available."""
    width = _BYTES.get(settings.dtype, family.shape.bytes_per_param)
    weights = resident_params(family.shape, family.student_params) * width
    if weights + settings.kv_cache_bytes > available:
        raise SettingsError(
            f"not enough memory: the weights take {format_bytes(weights)} and kv_cache_bytes is "
            f"{format_bytes(settings.kv_cache_bytes)}, with {format_bytes(available)} available"
        )
