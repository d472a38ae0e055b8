"""Results that are kept as soon as they are there, so that a stopped run goes on; no torch.

    {"settings": {…}, "result": …}

A result counts only for the very settings that it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boomerang_core.errors import DataError
from boomerang_core.files import save_json


def read_finished(path: Path, settings: Mapping[str, Any]) -> Any:
    """The result in the file; None where there is none, or one of other settings.

    Raises `DataError` for a file that is something else.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same, result = record["settings"] == _plain(settings), record["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no finished result; delete it: {error!r}") from error
    return result if same else None


def write_finished(path: Path, settings: Mapping[str, Any], result: Any) -> None:
    """Write the file, atomically; a result of other settings gives way.  Raises `WriteError`."""
    save_json({"settings": dict(settings), "result": result}, path)


def _plain(settings: Mapping[str, Any]) -> Any:
    """As it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(settings))
