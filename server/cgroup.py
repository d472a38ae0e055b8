"""The memory limit of the container that this process runs in."""

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_FILES = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1


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
