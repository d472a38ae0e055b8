"""The memory of the GPUs that a server uses, and what of it is for weights and KV cache."""

import subprocess
import sys
from collections.abc import Sequence
from functools import cache

from boomerang_core.errors import SettingsError
from boomerang_core.memory_plan import MemoryPlan

DEVICE_SHARE = 0.9
"""The rest is for activations, CUDA graphs and CUDA itself."""
PROCESS_BYTES = 5 << 29
"""What is left to these at the least, on each GPU: an assumption, 2.5 GiB.  On an H200 a small
model with 225 graphs took 0.7 GiB without CUDA itself (docs/benchmarks/h200-engine.md)."""
VLLM_SHARE = 0.92
"""vLLM's own `gpu_memory_utilization`."""
_SECONDS = 120
_ASK = """
import sys, torch
for place in range(int(sys.argv[1])):
    print(torch.cuda.get_device_properties(place).total_memory)
"""
"""For a process of its own: asking CUDA takes memory of the GPU for as long as the asker lives.
Of a MIG slice CUDA tells the slice's memory."""


@cache
def device_memory(count: int, ask: str = _ASK) -> tuple[int, ...]:
    """Bytes of memory of each of the first `count` GPUs, asked once.

    Raises `SettingsError` where CUDA does not tell.
    """
    command = [sys.executable, "-c", ask, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise SettingsError(
            f"cannot read the memory of {count} GPU{'s' * (count > 1)} ({said}): "
            "give the server as many"
        ) from error
    return tuple(map(int, done.stdout.split()))


def device_budget(memory: Sequence[int]) -> int:
    """The memory budget of a server on GPUs with so many bytes each.

    Of a small GPU a tenth is less than the process takes, so there more is left to it.
    """
    each = (min(int(total * DEVICE_SHARE), total - PROCESS_BYTES) for total in memory)
    return sum(max(budget, 0) for budget in each)


def device_share(plan: MemoryPlan, memory: Sequence[int]) -> float:
    """vLLM's `gpu_memory_utilization` of a server that holds `plan` on those GPUs.

    With the KV cache stated, vLLM takes from it only how much of each GPU must be free at the
    start.  So it is what the server takes there, which leaves the rest to others.
    """
    needed = (plan.weight_bytes + plan.kv_bytes) / len(memory) + PROCESS_BYTES
    return min(needed / max(memory), VLLM_SHARE)
