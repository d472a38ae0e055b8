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
