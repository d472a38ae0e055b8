"""One real server for the session: its own process, a real socket, a real vLLM engine."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import pytest

from boomerang_core.family import Family

ROOT = Path(__file__).parents[2]
START_SECONDS = 180


@dataclass(frozen=True)
class Running:
    """A server process that was started, maybe still loading."""

    url: str
    family: Family
    process: "subprocess.Popen[str]"
    log: Path

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while httpx.get(f"{self.url}/ready").status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", "serve", *arguments]


def environment(**settings: str) -> dict[str, str]:
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("BOOMERANG_", "VLLM_"))}
    return {**quiet, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **settings}


def start(family: Family, log: Path, **settings: str) -> Running:
    """Start a server on a free port and return once it listens."""
    options = ["--port", "0", "--dtype", "float32", "--max-model-len", "256"]
    process = subprocess.Popen(
        command(str(family.root), *options, "--kv-cache-bytes", "16MiB"),
        cwd=ROOT,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=log.open("w"),
        text=True,
    )
    assert process.stdout is not None
    return Running(_address(process.stdout, log), family, process, log)


def _address(stdout: IO[str], log: Path) -> str:
    line = stdout.readline()
    match = re.search(r"http://\S+", line)
    assert match, line + log.read_text()
    return match[0]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny random low-rank family whose tokenizer knows bytes, with a chat template."""
    from boomerang_core.route import StudentKind
    from tests.api.tokenizer import byte_tokenizer
    from tests.engine import families

    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        # With vLLM's default block size its CPU attention lacks a kernel for heads of 16.
        patch.setattr(families, "HIDDEN", 128)
        tiny = families.make_family(folder, StudentKind.LOWRANK, False, True)
    byte_tokenizer().save_pretrained(tiny.teacher_dir)
    return tiny.family


@pytest.fixture(scope="session")
def loading(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server, as soon as it listens."""
    running = start(family, tmp_path_factory.mktemp("log") / "stderr", BOOMERANG_LINGER_SECONDS="2")
    yield running
    running.process.terminate()
    assert running.process.wait(60) == 0, running.log.read_text()


@pytest.fixture(scope="session")
def server(loading: Running) -> Running:
    """The server, loaded."""
    loading.wait_until_ready()
    return loading


@pytest.fixture(scope="session")
def http(server: Running) -> Iterator[httpx.Client]:
    """A client of the loaded server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
