"""How a server ends: drained, stopped while loading, or never started."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from boomerang_core.family import Family
from tests.api.servers import CONTEXT, ROOT, Running, command, environment, start
from tests.api.test_logs import SECRET, records


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
        (["--api-keys-file", "nowhere"], {}, "cannot read the keys of nowhere"),
        ([], {"BOOMERANG_TLS_CERT_FILE": "x"}, "tls_cert_file and tls_key_file go together"),
        (["--kv-cache-bytes", "1MiB"], {}, "cannot hold one request"),
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


def test_a_certificate_that_is_none(tmp_path: Path, family: Family) -> None:
    file = tmp_path / "no.pem"
    file.write_text("nothing")
    tls = {"BOOMERANG_TLS_CERT_FILE": str(file), "BOOMERANG_TLS_KEY_FILE": str(file)}
    status, lines = fails(str(family.root), "--port", "0", **tls)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: cannot use tls_cert_file")


def test_a_family_with_a_flipped_byte(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "family"
    shutil.copytree(family.root, folder)
    weights = folder / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    status, lines = fails(str(folder), "--port", "0")
    assert (status, len(lines)) == (2, 1)
    assert "model.safetensors is corrupt" in lines[0]


@pytest.mark.engine
def test_a_teacher_that_is_cut_off(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "family"
    shutil.copytree(family.root, folder)
    record = json.loads((folder / "family.json").read_text())
    teacher = tmp_path / "teacher"
    shutil.copytree(record["teacher"]["location"], teacher)
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    record["teacher"]["location"] = str(teacher)
    (folder / "family.json").write_text(json.dumps(record))
    status, lines = fails(str(folder), "--port", "0")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"error: cannot read the checkpoint {weights}")


@pytest.mark.engine
def test_memory_that_is_not_there(family: Family) -> None:
    status, lines = fails(str(family.root), "--port", "0", "--kv-cache-bytes", "1024TiB")
    assert status == 1
    assert lines[-1].startswith("error: not enough memory: the weights take")
    assert not any("Traceback" in line for line in lines)


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
    running = start(family, tmp_path / "log")
    assert httpx.get(f"{running.url}/live").status_code == 200
    began = time.monotonic()
    running.process.terminate()
    assert running.process.wait(30) == 0, running.log.read_text()
    assert time.monotonic() - began < 15


@contextmanager
def streaming(url: str) -> Iterator[Iterator[str]]:
    """The lines of a long stream that has begun."""
    body = {"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 250}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as stream:
        lines = filter(None, stream.iter_lines())
        next(lines)
        yield lines


def assert_whole(lines: Iterator[str]) -> None:
    """The stream ends as it should: a stream whose engine has died says DONE too."""
    *_, last, done = lines
    assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert done == "data: [DONE]"


@pytest.mark.engine
def test_ctrl_c_finishes_what_runs_and_stops_at_once(other: Running) -> None:
    """A terminal sends it to every process of the group: the engine's must not mind.

    Once idle the end takes a second, 7 before it was looked after; the bound is for busy machines.
    """
    other.wait_until_ready()
    with streaming(other.url) as lines:
        os.killpg(other.process.pid, signal.SIGINT)
        assert_whole(lines)
    idle = time.monotonic()
    other.assert_ended_cleanly()
    assert time.monotonic() - idle < 5
    assert SECRET not in str(records(other))  # JSON to the last line


def ask_until_unready(url: str, number: int, answered: list[int]) -> None:
    """One answer after another, each on a connection of its own, as long as the server is ready.

    Adds the number of tokens of each answer to `answered`; whatever else comes back raises.
    """
    while httpx.get(f"{url}/ready", timeout=60, verify=CONTEXT).status_code == 200:
        tokens = 5 + (number + 7 * len(answered)) % 40
        body = {"prompt": f"client {number}", "ignore_eos": True, "max_tokens": tokens}
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=60, verify=CONTEXT)
        assert reply.status_code == 200, reply.text
        assert reply.json()["usage"]["completion_tokens"] == tokens
        answered.append(tokens)


@pytest.mark.engine
def test_sigterm_drains_under_load(server: Running) -> None:
    """Unready at once, still accepting for a moment, no accepted request lost, exit status 0.

    Last in the last file of this tier: it stops the session's server.
    """
    with (
        httpx.Client(base_url=server.url, timeout=60) as http,
        ThreadPoolExecutor(8) as pool,
        streaming(server.url) as lines,
    ):
        answered: list[list[int]] = [[] for _ in range(8)]
        clients = [pool.submit(ask_until_unready, server.url, *one) for one in enumerate(answered)]
        while not all(answered):
            assert not any(client.done() for client in clients), "a client gave up"
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        while http.get("/ready").status_code == 200:
            time.sleep(0.02)
        assert http.get("/live").status_code == 200
        late = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})
        assert late.status_code == 200
        for client in clients:
            client.result()
        assert_whole(lines)
    server.assert_ended_cleanly()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/live")
