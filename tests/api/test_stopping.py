"""How a server ends: drained, stopped while loading, or never started."""

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.conftest import ROOT, Running, command, environment, start


def fails(*arguments: str, **settings: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (["nowhere"], {}, "nowhere"),
        (["--kv-cache-bytes", "lots"], {}, "kv_cache_bytes"),
        (["--dtype", "int1"], {}, "dtype"),
        ([], {"BOOMERANG_PROT": "1"}, "BOOMERANG_PROT is not a setting"),
        ([], {"BOOMERANG_PORT": "99999"}, "port"),
    ],
)
def test_a_server_that_cannot_start_says_so_in_one_line(
    arguments: list[str], settings: dict[str, str], says: str
) -> None:
    status, lines = fails(*arguments, **settings)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_a_port_that_is_taken(family: Family) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, lines = fails(str(family.root), "--port", str(port))
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use")


@pytest.mark.engine
def test_a_checkpoint_that_is_gone(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "family"
    shutil.copytree(family.root, folder)
    record = json.loads((folder / "family.json").read_text())
    record["teacher"]["location"] = str(tmp_path / "gone")
    (folder / "family.json").write_text(json.dumps(record))
    status, lines = fails(str(folder), "--port", "0")
    assert status == 1
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.engine
def test_stopped_while_loading(tmp_path: Path, family: Family) -> None:
    running = start(family, tmp_path / "stderr")
    assert httpx.get(f"{running.url}/live").status_code == 200
    began = time.monotonic()
    running.process.terminate()
    assert running.process.wait(30) == 0, running.log.read_text()
    assert time.monotonic() - began < 15


@pytest.mark.engine
def test_sigterm_drains(server: Running) -> None:
    """Unready at once, still accepting for a moment, streams finished, exit status 0.

    Last in the last file of this tier: it stops the session's server.
    """
    body = {"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 250}
    with (
        httpx.Client(base_url=server.url, timeout=60) as http,
        httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        while http.get("/ready").status_code == 200:
            time.sleep(0.02)
        assert http.get("/live").status_code == 200
        late = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})
        assert late.status_code == 200
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert server.process.wait(60) == 0, server.log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/live")
    assert "Traceback" not in server.log.read_text()
