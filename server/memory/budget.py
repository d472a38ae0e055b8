"""How much memory a server may take, told or found out, and what vLLM is told of it."""

from boomerang_core.memory_plan import MemoryPlan
from boomerang_core.precision import built_for_cpu
from server.memory.cgroup import default_budget, memory_limit
from server.memory.device import device_budget, device_memory, device_share
from server.settings import Settings


def memory_budget(settings: Settings) -> int | None:
    """The memory budget: as told, else what the GPUs have or the container's limit leaves."""
    if settings.memory_budget is not None:
        return settings.memory_budget
    if built_for_cpu():
        return default_budget(memory_limit())
    return device_budget(device_memory(settings.tensor_parallel_size))


def vllm_share(settings: Settings, plan: MemoryPlan) -> dict[str, float]:
    """How much of each GPU vLLM must find free; on a CPU it looks at the KV cache alone."""
    if built_for_cpu():
        return {}
    memory = device_memory(settings.tensor_parallel_size)
    return {"gpu_memory_utilization": device_share(plan, memory)}
