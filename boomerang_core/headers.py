"""Names and shapes of the tensors in a safetensors file, from its header alone; no torch.

A file begins with the header's length (8 bytes, little-endian) and the header (JSON).
"""

import json
from pathlib import Path

from boomerang_core.errors import CheckpointError

_LENGTH = 8
_LONGEST = 100_000_000  # the format's own bound


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor.  Raises `CheckpointError` where that is not to be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if length > _LONGEST:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        return {
            name: tuple(int(extent) for extent in tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
