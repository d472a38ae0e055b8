"""The memory limit of the container that this process runs in, and what of it is for weights."""

import os
import re
from pathlib import Path

import psutil

from boomerang_core.errors import SettingsError
from boomerang_core.sizes import format_bytes

_ROOT = Path("/sys/fs/cgroup")
_FILES = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1

PROCESS_BYTES = 2560 << 20
"""Reserved for the server's processes on a CPU, which took 1.9 to 2.1 GiB beside weights and KV
cache (docs/operations.md)."""


def default_budget(limit: int | None) -> int | None:
    """The memory budget that a container's limit leaves; None: no budget.

    Raises `SettingsError` where it leaves nothing.
    """
    if limit is None or limit > PROCESS_BYTES:
        return None if limit is None else limit - PROCESS_BYTES
    raise SettingsError(
        f"the container may use {format_bytes(limit)}, and {format_bytes(PROCESS_BYTES)} are "
        "reserved for the process: allow it more, or state memory_budget"
    )


def memory_left(root: Path = _ROOT) -> int:
    """Bytes that more weights may take: what the machine has, and the cgroup allows."""
    available = int(psutil.virtual_memory().available)
    limit = memory_limit(root)
    if limit is None:
        return available
    version2 = (root / "memory.current").exists()
    used = root / ("memory.current" if version2 else "memory/memory.usage_in_bytes")
    stat = root / ("memory.stat" if version2 else "memory/memory.stat")
    # Files that were read count as used, and make room when it is needed.
    name = "inactive_file" if version2 else "total_inactive_file"
    cached = re.search(rf"^{name} ([0-9]+)$", stat.read_text(), re.MULTILINE)
    taken = int(used.read_text()) - (int(cached[1]) if cached else 0)
    return min(available, limit - taken)


def memory_limit(root: Path = _ROOT, machine: int | None = None) -> int | None:
    """Bytes that the cgroup may use; None where it is not limited below the machine's memory."""
    total = machine or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _FILES:
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < total:
            return int(text)
    return None
