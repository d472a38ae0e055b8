"""A server of our own for a load experiment, on a free port, stopped at the end."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from boomerang_core.errors import SettingsError
from server.load.chooser import Objective

_START_SECONDS = 300.0


@contextmanager
def serving(folder: Path, objective: Objective, tokens: int) -> Iterator[str]:
    """The address of a server that is ready for requests of so many tokens.

    Raises `SettingsError` where it does not start.
    """
    command = [sys.executable, "-m", "server.cli", "serve", str(folder), "--port", "0"]
    command += ["--max-model-len", str(max(256, tokens))]
    environment = {
        "BOOMERANG_FIRST_TOKEN_SECONDS": str(objective.first_token_seconds),
        "BOOMERANG_TOKEN_SECONDS": str(objective.token_seconds),
    }
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("w") as printed:
            process = subprocess.Popen(
                ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        try:
            yield _ready(process, log)
        finally:
            process.terminate()
            process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        address = re.search(r"http://\S+(?= )", log.read_text())
        if address and httpx.get(f"{address[0]}/ready").status_code == httpx.codes.OK:
            return address[0]
        time.sleep(0.2)
    last = (log.read_text().strip().splitlines() or ["it printed nothing"])[-1]
    raise SettingsError(f"the server did not start: {last}")
