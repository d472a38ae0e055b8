"""The family folder: what is written is what is read, and a flipped byte is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from boomerang_core.contents import INDEX
from boomerang_core.errors import FamilyError
from boomerang_core.family import load_family, write_family
from boomerang_core.sizes import Quality
from tests.folders import write_tiny
from tests.unit.test_sizes import SHAPE, design


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model.safetensors").write_bytes(b"weights")
    quality = {0: Quality(1.5, 0.4, 99.0, 1000)}
    write_tiny(tmp_path, design(), SHAPE, quality=quality, provenance={"seed": 0})
    return tmp_path


def test_round_trip(folder: Path) -> None:
    family = load_family(folder)
    assert family.design == design()
    assert family.table.student.quality == Quality(1.5, 0.4, 99.0, 1000)
    before = (folder / INDEX).read_bytes()
    write_family(family, folder)
    assert (folder / INDEX).read_bytes() == before


def flip(folder: Path) -> None:
    (folder / "student" / "model.safetensors").write_bytes(b"weighty")


def remove(folder: Path) -> None:
    (folder / "student" / "model.safetensors").unlink()


def add(folder: Path) -> None:
    (folder / "student" / "extra.bin").write_bytes(b"")


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def truncate(folder: Path) -> None:
    (folder / INDEX).write_text((folder / INDEX).read_text()[:100])


def edit(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        record = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(record | changes))

    return apply


def edit_rows(
    *rows: int, default_size: int | None = None, **changes: object
) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        record = json.loads((folder / INDEX).read_text())
        record["default_size"] = record["default_size"] if default_size is None else default_size
        for row in rows:
            record["sizes"][row].update(changes)
        (folder / INDEX).write_text(json.dumps(record))

    return apply


DAMAGES = {
    "is corrupt": flip,
    "lacks student/model": remove,
    "does not list": add,
    "has no family.json": no_index,
    "cannot be read": truncate,
    "must have format": edit(format=99),
    "is malformed": edit(shape={}),
    "the ladder": edit(ladder=[[0], [1, 2]]),
    "every block must list": edit(blocks=[{"layers": [], "kept": 0, "shared": True}]),
    "is not a valid StudentKind": edit(student_kind="tiny"),
    "lists no files": edit(sha256={}),
    "default size": edit(default_size=17),
    "name must be one word": edit(name="tiny@1"),
    "sizes count from 0": edit_rows(0, size=1),
    "two sizes have one id": edit_rows(0, 1, id="same"),
    "does not match the ladder": edit_rows(0, weight_bytes="many"),
    "the teacher is always offered": edit_rows(-1, offered=False, default_size=0),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damage_is_refused(folder: Path, message: str) -> None:
    DAMAGES[message](folder)
    with pytest.raises(FamilyError, match=message):
        load_family(folder)


def test_a_folder_without_a_student_is_not_written(folder: Path) -> None:
    family = dataclasses.replace(load_family(folder))
    remove(folder)
    with pytest.raises(FamilyError, match="no student"):
        write_family(family, folder)
