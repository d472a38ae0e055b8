"""The memory of the GPUs that a server uses, and what of it is for weights and KV cache."""

import subprocess
import sys

from boomerang_core.errors import SettingsError

DEVICE_SHARE = 0.9
"""The rest is for activations, CUDA graphs and CUDA itself."""
_SECONDS = 120
_ASK = """
import sys, torch
for place in range(int(sys.argv[1])):
    print(torch.cuda.get_device_properties(place).total_memory)
"""
"""For a process of its own: asking CUDA takes memory of the GPU for as long as the asker lives.
Of a MIG slice CUDA tells the slice's memory."""


def device_budget(count: int, ask: str = _ASK) -> int:
    """The memory budget of a server on the first `count` GPUs, in bytes.

    Raises `SettingsError` where CUDA does not tell.
    """
    command = [sys.executable, "-c", ask, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise SettingsError(
            f"cannot read the memory of {count} GPU{'s' * (count > 1)} ({said}): give the server "
            f"as many, or state memory_budget"
        ) from error
    return int(sum(map(int, done.stdout.split())) * DEVICE_SHARE)
