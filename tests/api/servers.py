"""Real servers for the tests: a process of their own, a real socket, a real vLLM engine."""

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from boomerang_core.family import Family

ROOT = Path(__file__).parents[2]
START_SECONDS = 180
CONTEXT = ssl.create_default_context()
"""One for all: httpx would make one for each call, which takes 50 times as long as the call."""
_STARTED: "list[subprocess.Popen[str]]" = []


@dataclass(frozen=True)
class Running:
    """A server process that was started, maybe still loading; `log` has all that it printed."""

    url: str
    family: Family
    process: "subprocess.Popen[str]"
    log: Path

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while httpx.get(f"{self.url}/ready", verify=CONTEXT).status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def assert_ended_cleanly(self) -> None:
        """Wait for the end: exit status 0, and nothing printed that looks like a failure."""
        status = self.process.wait(60)
        printed = self.log.read_text()
        assert status == 0, printed
        for word in ("Traceback", "EngineDeadError", "ERROR", "leaked", "Exception ignored"):
            assert word not in printed, printed


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", "serve", *arguments]


def environment(**settings: str) -> dict[str, str]:
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("BOOMERANG_", "VLLM_"))}
    return {**quiet, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **settings}


def start(family: Family, log: Path, **settings: str) -> Running:
    """Start a server on a free port and return once it listens."""
    options = ["--port", "0", "--dtype", "float32", "--max-model-len", "256"]
    with log.open("w") as printed:  # both streams: vLLM logs on the standard output
        process = subprocess.Popen(
            command(str(family.root), *options, "--kv-cache-bytes", "16MiB"),
            cwd=ROOT,
            env=environment(**settings),
            stdout=printed,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own, as a shell gives it
        )
    _STARTED.append(process)
    return Running(_address(process, log), family, process, log)


def end_what_runs() -> None:
    """Kill the servers, with their engines, that a failed test left running."""
    for process in _STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    """The address that a server prints when it listens."""
    deadline = time.monotonic() + START_SECONDS
    while not (match := re.search(r"https?://\S+(?= )", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return match[0]
