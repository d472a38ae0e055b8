"""Folders are whole or absent, and what a kill leaves goes with the next write; no torch."""

import errno
import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from boomerang_core.errors import WriteError
from boomerang_core.family import Family
from boomerang_core.folders import held_folder, unfinished_folder, write_folder
from boomerang_core.saving import saved
from tests.imports import ROOT
from tests.unit.test_saving import save, state, tiny

__all__ = ["tiny"]  # a fixture

FULL = "I/O error: No space left on device (os error 28)"
KILLED = """
import os, signal, sys
from pathlib import Path
from boomerang_core.folders import unfinished_folder, write_folder

def fill(folder):
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "out":
    write_folder(Path("out"), fill)
with unfinished_folder(Path("family"), ".new.") as folder:
    fill(folder)
"""


def write(folder: Path) -> None:
    (folder / "weights").write_text("whole")


def kill_a_write(where: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where], cwd=root, env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "raised", [OSError(28, "No space left on device"), SafetensorError(FULL)], ids=["os", "tensors"]
)
def test_a_full_disk_is_one_clear_error_that_may_pass(raised: Exception, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        write(folder)
        raise raised

    with pytest.raises(WriteError, match=r"cannot write .*out: .*No space left") as caught:
        write_folder(tmp_path / "out", fill)
    assert caught.value.may_pass
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_goes_with_the_next_write(tmp_path: Path) -> None:
    kill_a_write("out", tmp_path)
    (left,) = tmp_path.iterdir()
    assert (left / "weights").read_text() == "half"
    write_folder(tmp_path / "other", write)
    assert left.exists()  # another target's
    write_folder(tmp_path / "out", write)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other"}
    assert (tmp_path / "out" / "weights").read_text() == "whole"


def test_what_a_killed_save_left_goes_with_the_next_save(tiny: Family) -> None:
    kill_a_write("family", tiny.root.parent)
    assert len(list(tiny.root.glob(".new.*"))) == 1
    save(tiny)
    assert state(tiny)["seed"] == 1
    assert not list(tiny.root.glob(".*"))


def test_what_a_process_still_fills_stays(tiny: Family, tmp_path: Path) -> None:
    with unfinished_folder(tmp_path, ".out.unfinished.") as folder, saved(tiny) as staged:
        save(tiny)
        write_folder(tmp_path / "out", write)
        assert folder.exists()
        assert staged.exists()


@pytest.mark.parametrize("name", [".out.mine", ".out.unfinished", ".out.unfinished.my.notes", "x"])
def test_what_is_not_ours_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / ".out.unfinished.linkedto").symlink_to(tmp_path / name)
    write_folder(tmp_path / "out", write)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    folder, link = tmp_path / "deep" / "work", tmp_path / "link"
    link.symlink_to(folder)
    folder.mkdir(parents=True)
    with held_folder(folder):
        message = f"another process works in {link}: wait"
        with pytest.raises(WriteError, match=message) as caught, held_folder(link):
            pass
        assert caught.value.may_pass
    with held_folder(link):
        pass
    assert not list(folder.iterdir())
    with held_folder(tmp_path / "made" / "for" / "it"):
        assert (tmp_path / "made" / "for" / "it").is_dir()


def test_a_volume_without_locks_lets_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held_folder(tmp_path), held_folder(tmp_path):
        pass
