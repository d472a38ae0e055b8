"""The Dockerfile and what goes into it."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.deploy.charts import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint, "hadolint comes with requirements/dev.txt"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_targets_and_base() -> None:
    assert {"cpu", "gpu"} <= set(re.findall(r" AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert "\nARG BASE=" in DOCKERFILE.partition("\nFROM ")[0]
    for final in DOCKERFILE.split("FROM runtime AS ")[1:]:
        assert "\nUSER 10001:10001\n" in final


def test_what_is_copied_is_let_in() -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for word in line.split()
    }
    assert {
        re.sub(r"requirements/\w+\.txt", "requirements/*.txt", word) for word in copied
    } == allowed


def test_a_pod_that_asks_for_no_gpu_sees_none() -> None:
    """NVIDIA's runtime shows every GPU of a node where the image itself says `all`."""
    assert "NVIDIA_VISIBLE_DEVICES" not in DOCKERFILE


def test_packages_are_pinned() -> None:
    for name in ("cpu", "gpu"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()[1:]
        assert len(lines) > 100
        assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.]+", line) for line in lines)


class Health(BaseHTTPRequestHandler):
    """A server that is well until told otherwise."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()


class Ill(Health):
    """One whose engine is dead."""

    status = 503


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of another host, and its key."""
    pem, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=llm.example -keyout {key} "
        f"-out {pem}".split(),
        check=True,
        capture_output=True,
    )
    return pem, key


def check(handler: type[Health], tls: tuple[Path, Path] | None) -> int:
    """The exit status of the image's health check against such a server."""
    command = json.loads(re.findall(r"^ +CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)[0])
    server = HTTPServer(("127.0.0.1", 0), handler)
    env = {"BOOMERANG_PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        env["BOOMERANG_TLS_CERT_FILE"] = str(tls[0])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        return subprocess.run(
            [sys.executable, *command[1:]], env=env, stderr=subprocess.DEVNULL
        ).returncode
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("secure", [False, True])
def test_the_health_check(secure: bool, tmp_path: Path) -> None:
    tls = certificate(tmp_path) if secure else None
    assert check(Health, tls) == 0
    assert check(Ill, tls) != 0
