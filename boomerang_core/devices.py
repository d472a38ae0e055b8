"""Where to compute: a device by name, or the best there is."""

from __future__ import annotations

import torch

from boomerang_core.errors import SettingsError, first_line
from boomerang_core.sizes import format_bytes


def usable_device(name: str | None) -> torch.device:
    """The named device, or the best there is.  Raises SettingsError."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name or found)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise SettingsError(f"cannot use device {name!r}: {reason}; there is {found!r}") from error
    return device


def require_memory(device: torch.device, needed: int, what: str) -> None:
    """Raise SettingsError where a GPU has less memory than so many bytes."""
    total = torch.cuda.get_device_properties(device).total_memory
    if needed > total:
        raise SettingsError(
            f"{what} takes {format_bytes(needed)}, and {device} has {format_bytes(total)}"
        )


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products have instructions of their own; else they are slower than float32.

    On a CPU with AVX512-BF16 a step of training took 0.66 of float32's time; in vLLM, a CPU
    without took 4 to 6 times as long (docs/log.md).  Of CPUs only x86 ones are known.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
