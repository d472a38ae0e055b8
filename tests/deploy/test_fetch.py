"""What the init containers do: a family is in place whole and verified, or not at all."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.charts import ROOT, SERVE

FAMILY = ROOT / "boomerang_core" / "families" / "smollm2-135m"


REVISION = "0" * 40


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A PATH with `boomerang`, and clients of a hub and a store that have the shipped family."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in (
        ("python", f'exec {sys.executable} "$@"'),
        ("boomerang", f'exec {sys.executable} -m boomerang_core "$@"'),
        ("hf", f'exec {sys.executable} -m tests.deploy.fake_hf "$@"'),
        ("rclone", f'[ -z "$FAILS" ] || exit 1\ncp -r {FAMILY} "$INCOMING"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def repository(tmp_path: Path) -> Path:
    """The family as a hub has it, with the files that a hub or its owner adds."""
    folder = tmp_path / "hub" / "o" / "f" / REVISION
    shutil.copytree(FAMILY, folder)
    for name in (".gitattributes", "README.md", "LICENSE"):
        (folder / name).touch()
    return folder


def sh(
    script: str, commands: Path, families: Path, **env: str
) -> "subprocess.CompletedProcess[str]":
    """Run a script of the chart as pod `a`."""
    given = {"TARGET": str(families / "f"), "INCOMING": str(families / ".incoming-a"), "FAILS": ""}
    given |= {"REPOSITORY": "o/f", "REVISION": REVISION, "REMOTE": "s3:f", **env}
    given["HUB"] = str(families / "hub")
    return subprocess.run(
        ["/bin/sh", str(SERVE / "files" / script)],
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", **given},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("source", ["hub", "rclone"])
def test_fetched_verified_in_place(source: str, commands: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time nothing is fetched
        done = sh(f"fetch-{source}.sh", commands, tmp_path)
        assert done.returncode == 0, done.stderr
        done = sh("verify.sh", commands, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "f" / "family.json").exists()
        assert not (tmp_path / ".incoming-a").exists()


def test_a_file_that_the_hub_lacks_is_named(
    repository: Path, commands: Path, tmp_path: Path
) -> None:
    (repository / "recipe.json").unlink()
    sh("fetch-hub.sh", commands, tmp_path)
    done = sh("verify.sh", commands, tmp_path)
    assert done.returncode != 0
    assert "lacks recipe.json" in done.stderr


def test_a_flipped_byte_is_not_put_in_place(commands: Path, tmp_path: Path) -> None:
    sh("fetch-hub.sh", commands, tmp_path)
    file = next((tmp_path / ".incoming-a" / "student").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = sh("verify.sh", commands, tmp_path)
    assert done.returncode != 0
    assert "is corrupt" in done.stderr
    assert not (tmp_path / "f").exists()


def test_what_a_killed_try_left_does_not_stay(commands: Path, tmp_path: Path) -> None:
    (tmp_path / ".incoming-a").mkdir()
    (tmp_path / ".incoming-a" / "half").write_text("")
    assert sh("fetch-hub.sh", commands, tmp_path, FAILS="1").returncode != 0
    assert sh("fetch-hub.sh", commands, tmp_path).returncode == 0
    assert sh("verify.sh", commands, tmp_path).returncode == 0


def make_old(folder: Path, days: float) -> None:
    """As if nothing in it had changed for so long."""
    then = time.time() - days * 24 * 3600
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("source", ["hub", "rclone"])
def test_what_replaced_pods_left_goes(
    source: str, there: bool, commands: Path, tmp_path: Path
) -> None:
    """Also where the family is in place; a pod that still writes into its folder keeps it."""
    for pod, days in (("dead", 1.1), ("slow", 0.9), ("busy", 3)):
        shutil.copytree(FAMILY, tmp_path / f".incoming-{pod}")
        make_old(tmp_path / f".incoming-{pod}", days)
    written = next((tmp_path / ".incoming-busy" / "student").glob("*.safetensors"))
    os.utime(written)
    (tmp_path / ".incoming-file").touch()
    if there:
        shutil.copytree(FAMILY, tmp_path / "f")
    done = sh(f"fetch-{source}.sh", commands, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    left = {path.name.removeprefix(".incoming-") for path in tmp_path.glob(".incoming-*")}
    assert left == {"slow", "busy", "file"} | (set() if there else {"a"})


def test_times_of_a_store_do_not_make_a_fetch_look_dead(commands: Path, tmp_path: Path) -> None:
    """rclone gives files and folders the times that they have in the store."""
    client = commands / "rclone"
    client.write_text(
        f'#!/bin/sh\ncp -r {FAMILY} "$INCOMING"\n'
        'find "$INCOMING" -exec touch -d "2 years ago" {} +\n'
    )
    assert sh("fetch-rclone.sh", commands, tmp_path).returncode == 0
    other = {"INCOMING": str(tmp_path / ".incoming-b")}
    assert sh("fetch-hub.sh", commands, tmp_path, **other).returncode == 0
    assert (tmp_path / ".incoming-a" / "family.json").exists()


def test_two_pods_at_once(commands: Path, tmp_path: Path) -> None:
    """The second finds the first's family in place, and its own copy goes."""
    sh("fetch-hub.sh", commands, tmp_path)
    shutil.copytree(FAMILY, tmp_path / "f")
    assert sh("verify.sh", commands, tmp_path).returncode == 0
    assert not (tmp_path / ".incoming-a").exists()
