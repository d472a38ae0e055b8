"""What an artefact says about its making."""

import os
import subprocess
from pathlib import Path

import pytest

from boomerang_core.errors import WriteError
from boomerang_core.files import write_text
from boomerang_core.provenance import command_line, git_commit


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/some/where/prose.txt", "prose.txt"),
        ("ours=/some/where/ours", "ours=ours"),
        ("--text=/some/where/prose.txt", "--text=prose.txt"),
        ("end_to_end.learning_rate=3e-4", "end_to_end.learning_rate=3e-4"),
        ("families/ours", "families/ours"),
    ],
)
def test_the_command_leaves_out_this_machines_folders(
    word: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/boomerang", "make", word])
    assert command_line().endswith(f"make {shown}")


class TestGit:
    @pytest.fixture
    def theirs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Somebody's repository with a commit, in which the user stands."""
        for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
            monkeypatch.setenv(name, "somebody")
        for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
            monkeypatch.setenv(name, "somebody@example.org")
        for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
            subprocess.run(["git", *words], cwd=tmp_path, check=True)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_the_commit_is_not_that_of_the_working_folder(
        self, theirs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = git_commit()
        assert ours != git_commit(theirs)
        monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))  # as in a hook of git's
        assert git_commit() == ours

    def test_a_package_installed_in_a_repository_has_no_commit(self, theirs: Path) -> None:
        (theirs / ".venv").mkdir()
        assert git_commit(theirs / ".venv") is None
        assert git_commit(theirs) is not None


class TestOnTheDisk:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What is asked of the system, in order."""
        calls: list[str] = []
        sync, replace = os.fsync, Path.replace

        def fsync(handle: int) -> None:
            calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name[:5]}")
            sync(handle)

        def rename(path: Path, target: Path) -> Path:
            calls.append("rename")
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", rename)
        return calls

    def test_a_file_is_synced_before_its_rename_and_the_folder_after(
        self, tmp_path: Path, calls: list[str]
    ) -> None:
        (tmp_path / "folder").mkdir()
        write_text(tmp_path / "folder" / "file", "text")
        assert calls == ["sync .file", "rename", "sync folde"]

    def test_a_file_that_cannot_be_synced_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        (tmp_path / "file").write_text("old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            write_text(tmp_path / "file", "new")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
