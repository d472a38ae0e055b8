"""A save into a family folder is made or is not, whenever it stops, whoever looks; no torch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boomerang_core import contents, family
from boomerang_core.contents import INDEX, NEXT
from boomerang_core.errors import FamilyError, WriteError
from boomerang_core.family import Family, load_family, verify_family
from boomerang_core.files import save_json
from boomerang_core.saving import saved
from tests.folders import write_tiny
from tests.unit.test_sizes import SHAPE, design


class KilledError(Exception):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture
def tiny(tmp_path: Path) -> Family:
    folder = tmp_path / "family"
    for name in ("student/model.safetensors", "report/sizes.json", "report/tasks.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    return write_tiny(folder, design(), SHAPE, provenance={"seed": 0})


def save(tiny: Family) -> None:
    """Change one report, add one, remove one, and the family's seed."""
    renewed = replace(tiny, provenance={"seed": 1})
    with saved(renewed, without=["report/tasks.json"]) as folder:
        for name in ("naive", "sizes"):
            save_json("new", folder / "report" / f"{name}.json")


def state(tiny: Family) -> dict[str, Any]:
    """What a loaded family says of itself, and the reports that lie there."""
    loaded = verify_family(tiny.root)
    reports = {path.name: path.read_text() for path in (tiny.root / "report").iterdir()}
    return {"seed": loaded.provenance["seed"], **reports}


OLD = {"seed": 0, "sizes.json": "old", "tasks.json": "old"}
NEW = {"seed": 1, "sizes.json": '"new"\n', "naive.json": '"new"\n'}


def test_all_of_it_takes_effect(tiny: Family) -> None:
    assert state(tiny) == OLD
    save(tiny)
    assert state(tiny) == NEW
    assert not list(tiny.root.glob(".*"))


@pytest.mark.parametrize("failing", ["naive.json", "sizes.json", INDEX])
def test_a_write_that_fails_changes_nothing(
    failing: str, tiny: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.write_text

    def full(path: Path, *args: Any, **options: Any) -> int:
        if failing in path.name:
            raise OSError(28, "No space left on device")
        return plain(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(WriteError, match="No space left"):
            save(tiny)
    assert state(tiny) == OLD
    assert not list(tiny.root.rglob(".*"))


@pytest.mark.parametrize("moves", range(4))
def test_a_kill_between_the_renames_is_made_good_by_the_next_load(
    moves: int, tiny: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files, the index, and the end; whatever of them was done before."""
    plain, done = contents._move, []

    def move(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KilledError
        done.append(target)
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(contents, "_move", move)
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            save(tiny)
    assert (tiny.root / NEXT).is_dir()
    assert state(tiny) == NEW
    assert not (tiny.root / NEXT).exists()


def killed(*_: Any, **__: Any) -> None:
    raise KilledError


def test_a_load_that_meets_a_save_begins_again(
    tiny: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server's may that starts meanwhile: it hashes the student for a while."""
    plain, loads = contents.sha256_of, []

    def sha256_of(path: Path) -> str:
        if not loads:
            loads.append(path)
            save(tiny)
        return plain(path)

    monkeypatch.setattr(contents, "sha256_of", sha256_of)
    assert load_family(tiny.root).provenance["seed"] == 1


def test_a_folder_that_cannot_be_written_says_that_a_save_was_broken_off(
    tiny: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    (tiny.root / NEXT / "report").mkdir(parents=True)
    (tiny.root / NEXT / "report" / "sizes.json").write_text("new")
    monkeypatch.setattr(contents, "_move", read_only)
    with pytest.raises(FamilyError, match=r"broken off.*Read-only.*boomerang verify"):
        load_family(tiny.root)


def test_files_that_stay_are_not_read(tiny: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = contents.sha256_of
    monkeypatch.setattr(contents, "sha256_of", lambda path: read.append(path.name) or plain(path))
    save(tiny)
    assert sorted(read) == ["naive.json", "sizes.json"]


def test_a_damaged_file_does_not_become_right(tiny: Family) -> None:
    (tiny.root / "student" / "model.safetensors").write_text("odd")
    save(tiny)
    with pytest.raises(FamilyError, match=r"model\.safetensors is corrupt"):
        load_family(tiny.root)


def test_the_index_lists_names_in_order(tiny: Family) -> None:
    save(tiny)
    names = list(json.loads((tiny.root / family.INDEX).read_text())["sha256"])
    assert names == sorted(names)


class TestNamesThatLeaveTheFolder:
    """A family of a stranger, whose `.next` is made to remove or to move files of ours."""

    @pytest.fixture
    def mine(self, tmp_path: Path) -> Path:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes").write_text("dear")
        return tmp_path / "mine" / "notes"

    def begin_save(self, tiny: Family) -> None:
        (tiny.root / NEXT / "report").mkdir(parents=True)
        (tiny.root / NEXT / "report" / "notes").write_text("new")
        shutil.copyfile(tiny.root / INDEX, tiny.root / NEXT / INDEX)

    def list_file(self, tiny: Family, name: str) -> None:
        record = json.loads((tiny.root / INDEX).read_text())
        record["sha256"][name] = "0" * 64
        (tiny.root / INDEX).write_text(json.dumps(record))

    @pytest.mark.parametrize("save", [True, False])
    @pytest.mark.parametrize("absolute", [True, False])
    def test_in_the_index(self, absolute: bool, save: bool, tiny: Family, mine: Path) -> None:
        if save:
            self.begin_save(tiny)
        name = str(mine) if absolute else "report/../../mine/notes"
        self.list_file(tiny, name)
        with pytest.raises(FamilyError, match=f"lists '{name}', which leaves"):
            load_family(tiny.root)
        assert mine.read_text() == "dear"

    def test_through_a_link(self, tiny: Family, mine: Path) -> None:
        self.begin_save(tiny)
        shutil.rmtree(tiny.root / "report")
        (tiny.root / "report").symlink_to(mine.parent)
        with pytest.raises(FamilyError, match="which leaves the family folder"):
            load_family(tiny.root)
        assert mine.read_text() == "dear"

    def test_a_save_that_is_a_link(self, tiny: Family, mine: Path) -> None:
        (tiny.root / NEXT).symlink_to(mine.parent)
        with pytest.raises(FamilyError, match="is a link"):
            load_family(tiny.root)
        assert mine.read_text() == "dear"

    def test_no_name_at_all(self, tiny: Family) -> None:
        self.list_file(tiny, "a\0b")
        with pytest.raises(FamilyError, match="leaves the family folder"):
            load_family(tiny.root)
