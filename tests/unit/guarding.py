"""Keys, and a guard that knows them, for the tests of both."""

from pathlib import Path

import pytest

from server.guard.key_files import KeyFiles
from server.guard.limits import Limits
from server.guard.middleware import Guarding

API, OTHER, ADMIN = "api-key-0123456789", "other-key-0123456789", "admin-key-0123456789"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def guarding(tmp_path: Path) -> Guarding:
    api = write(tmp_path / "api", "# for the tests", API, "", f"  {OTHER}  # team-one ")
    files = KeyFiles(api, write(tmp_path / "admin", ADMIN))
    return Guarding(Limits(1000, 60.0, None, 4, 2, 1, 6), files)
