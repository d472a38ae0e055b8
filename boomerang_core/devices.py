"""Where to compute: a device by name, or the best there is."""

from __future__ import annotations

import torch

from boomerang_core.errors import SettingsError


def usable_device(name: str | None) -> torch.device:
    """The named device, or the best there is.  Raises SettingsError."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name or found)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"cannot use device {name!r}: {reason}; there is {found!r}") from error
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products have instructions of their own; else they are slower than float32.

    On two AVX512-BF16 cores a step took 0.66 of float32's time, on AVX2 it took several times as
    long (docs/log.md).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
