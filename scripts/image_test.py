"""`make image-test`: build the CPU image for real and hold it to what the chart asks of it.

No registry and no daemon: Debian's debootstrap makes the base, buildah the image, bubblewrap runs
it with a read-only root, as a user that is not root, without a capability.  Needs root, some
20 GB below FOLDER, and the Debian packages buildah, debootstrap and bubblewrap.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BASE, IMAGE = "localhost/debian-base", "localhost/boomerang:cpu"
COMPILERS = ("gcc", "cc", "g++", "clang", "pip", "pip3")
START_SECONDS, STOP_SECONDS = 600, 60


def run(*command: str | Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


class Buildah:
    """buildah with a store of its own; vfs and chroot work where overlays and runtimes do not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = ["--root", str(folder / "store"), "--runroot", str(folder / "runroot")]

    def __call__(self, *arguments: str | Path) -> str:
        return run("buildah", *self._options, "--storage-driver", "vfs", *arguments)

    def make_base(self) -> None:
        """A minimal Debian 12 as an image, once."""
        if BASE in self("images", "--format", "{{.Name}}").split():
            return
        rootfs = self._folder / "rootfs"
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", rootfs)
        container = self("from", "scratch")
        self("add", "--quiet", container, rootfs, "/")
        self("commit", "--quiet", container, BASE)
        self("rm", container)
        shutil.rmtree(rootfs)

    def build(self) -> None:
        """The target `cpu`, over the base: a layer a stage, since vfs copies each one whole."""
        secret, volumes = pip_settings(self._folder)
        options = ["--isolation", "chroot", "--format", "docker", "--pull-never"]
        options += ["--build-arg", f"BASE={BASE}", "--secret", f"id=pip,src={secret}"]
        for path in volumes:
            options += ["--volume", f"{path}:{path}:ro"]
        self("bud", *options, "--target", "cpu", "--tag", IMAGE, ROOT)

    @contextmanager
    def mounted(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """(root folder, configuration) of the image."""
        container = self("from", "--pull-never", IMAGE)
        try:
            config = json.loads(self("inspect", "--type", "image", IMAGE))["Docker"]["config"]
            yield Path(self("mount", container)), config
        finally:
            self("rm", container)


def pip_settings(folder: Path) -> tuple[Path, list[Path]]:
    """This machine's pip settings as a file for the build, and the local paths that they name."""
    lines, paths = ["[global]"], []
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, quoted = line.partition("=")
        value = quoted.strip("'\"")
        lines.append(f"{key.rsplit('.', 1)[-1]} = {value}")
        words = map(local_path, value.split())
        paths += [path for path in words if path.is_absolute() and path.exists()]
    file = folder / "pip.conf"
    file.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    return file, sorted(set(paths))


def local_path(word: str) -> Path:
    """The path that a setting names; of an index on disk, the folder that its links stay in."""
    path = Path(word.removeprefix("file://"))
    return path.parent if word.startswith("file://") else path


def sandboxed(root: Path, config: dict[str, Any], cache: Path, port: int) -> list[str]:
    """The command that runs the image's own entry point as the chart runs it."""
    uid, _, gid = config["User"].partition(":")
    assert int(uid) > 0
    command = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    command += ["--uid", uid, "--gid", gid, "--cap-drop", "ALL", "--die-with-parent", "--clearenv"]
    command += ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
    command += ["--ro-bind", "/sys", "/sys"]
    command += ["--tmpfs", "/dev/shm", "--tmpfs", "/tmp", "--bind", str(cache), "/cache"]
    for variable in [*config["Env"], f"BOOMERANG_PORT={port}", "BOOMERANG_LINGER_SECONDS=3"]:
        command += ["--setenv", *variable.split("=", 1)]
    return command


def check_contents(root: Path, config: dict[str, Any]) -> None:
    """No compiler, no pip, no caches; labels, health check and user are there."""
    for folder in ("usr/bin", "usr/local/bin", "opt/boomerang/bin"):
        found = [name for name in COMPILERS if (root / folder / name).exists()]
        assert not found, f"{folder} has {found}"
    assert not any((root / "var/lib/apt/lists").iterdir())
    assert not (root / "root/.cache").exists()
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def get(url: str) -> int:
    """The status of a GET; 0 while nothing listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return 0


def complete(url: str, **fields: object) -> dict[str, Any]:
    """One completion."""
    body = {"model": "smollm2-135m", "prompt": "The capital of France is", **fields}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def check_served(process: "subprocess.Popen[bytes]", url: str, health: list[str]) -> None:
    """Ready, a completion by size, one by budget, the health check; then a drained stop."""
    began = time.monotonic()
    while get(f"{url}/ready") != 200:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() - began < START_SECONDS, "the server does not become ready"
        time.sleep(0.5)
    print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
    subprocess.run(health, check=True)
    for fields in ({"size": "0.8"}, {"memory_budget": "500MiB"}, {"size": "teacher"}):
        answer = complete(url, max_tokens=8, temperature=0, **fields)
        print(fields, "→", answer["model"], repr(answer["choices"][0]["text"]), flush=True)
    print(f"memory of its own: {memory_of(process.pid) >> 20:,} MiB", flush=True)
    check_drain(process, url)


def memory_of(pid: int) -> int:
    """Proportional set size of a process and all that it started, in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return (own << 10) + sum(memory_of(child) for child in children)


def check_drain(process: "subprocess.Popen[bytes]", url: str) -> None:
    """SIGTERM while an answer is streamed: unready, still accepting, finished, status 0."""
    body = {"model": "smollm2-135m", "prompt": "x", "max_tokens": 200, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({**body, "ignore_eos": True}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as stream:
        stream.readline()
        os.kill(server_of(process.pid), signal.SIGTERM)
        while get(f"{url}/ready") == 200:
            time.sleep(0.05)
        assert get(f"{url}/ready") == 503
        assert complete(url, max_tokens=2)["choices"]
        lines = stream.read().decode().splitlines()
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in "".join(lines)
    assert process.wait(STOP_SECONDS) == 0, process.returncode
    print("drained: the stream was finished, a late request served, exit status 0", flush=True)


def server_of(pid: int) -> int:
    """The sandbox's first process, tini: the one that a kubelet would signal."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        name = Path(f"/proc/{child}/comm").read_text().strip()
        return int(child) if name == "tini" else server_of(int(child))
    raise AssertionError("the sandbox runs nothing")


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def main() -> None:
    """Build, look inside, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "image")
    parser.add_argument("--no-build", action="store_true", help="run the image that is there")
    options = parser.parse_args()
    folder = options.folder.resolve()
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    buildah, began = Buildah(folder), time.monotonic()
    if not options.no_build:
        buildah.make_base()
        buildah.build()
        print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    with buildah.mounted() as (root, config):
        check_contents(root, config)
        port = free_port()
        sandbox = sandboxed(root, config, cache, port)
        refused = subprocess.run([*sandbox, "touch", "/x"], capture_output=True, text=True)
        assert "Read-only file system" in refused.stderr, refused.stderr
        command = [*sandbox, *config["Entrypoint"], *config["Cmd"]]
        process = subprocess.Popen(command)
        try:
            health = [*sandbox, *config["Healthcheck"]["Test"][1:]]
            check_served(process, f"http://127.0.0.1:{port}", health)
        finally:
            process.kill()
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
