"""A teacher that was written over is not taken for the one that a family was made from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.errors import FamilyError
from boomerang_core.family import Family, load_family, write_family
from boomerang_core.merging import merge_family
from boomerang_core.own_teacher import VERSION, require_own_teacher, version_of
from boomerang_core.packing import pack_family
from boomerang_core.route import StudentKind
from tests.core.conftest import tiny_design, tiny_student, tiny_teacher, write_tiny_family
from tests.core.task_bench import CHOICES, Bench, bench, docs

__all__ = ["bench", "docs"]  # fixtures

KIND = StudentKind.LOWRANK
SAMPLE = ["--tokens", "100", "--row-length", "32", "--device", "cpu"]


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """It says which version of its teacher it was made from."""
    teacher = tiny_teacher("llama", True)
    made = write_tiny_family(
        tmp_path / "family", teacher, tiny_student(teacher, KIND), tiny_design(KIND)
    )
    version = version_of(made.teacher, Path(made.teacher.location))
    write_family(replace(made, provenance={"seed": 0, VERSION: version}), made.root)
    return load_family(made.root)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"w{4 + i * i % 50}" for i in range(300)))
    return tmp_path / "text.txt"


def write_over(family: Family) -> None:
    """Another model of the same shapes."""
    model = tiny_teacher("llama", True)
    for parameter in model.parameters():
        parameter *= 1.5
    model.save_pretrained(family.teacher.location)


def run(*words: object) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.mark.parametrize("write", [pack_family, merge_family])
def test_neither_packed_nor_merged(
    family: Family, write: Callable[[Family, Path], Family], tmp_path: Path
) -> None:
    version = family.provenance[VERSION]
    assert write(family, tmp_path / "right").provenance[VERSION] == version
    write_over(family)
    message = f"version must be {version}, and is .*put that one back, or make the family again"
    with pytest.raises(FamilyError, match=message):
        write(family, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--size", "student"],
        ["compare", "--text", "TEXT", *SAMPLE],
    ],
)
def test_neither_exported_nor_compared(
    command: list[str], family: Family, text: Path, tmp_path: Path
) -> None:
    words = [command[0], family.root, *(text if word == "TEXT" else word for word in command[1:])]
    assert run(*words, "--out", tmp_path / "right").exit_code == 0
    write_over(family)
    done = run(*words, "--out", tmp_path / "out")
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "is not the teacher that tiny was made from" in done.output
    assert not (tmp_path / "out").exists()


def test_the_shipped_family_says_which_teacher_is_its_own() -> None:
    shipped = load_family(cli.common.FAMILIES / "smollm2-135m")
    require_own_teacher(shipped)
    other = {**shipped.provenance, VERSION: "SmolLM2-135M-Instruct.Q4_1-0123456789abcdef"}
    with pytest.raises(FamilyError, match=f"and is {shipped.provenance[VERSION]};"):
        require_own_teacher(replace(shipped, provenance=other))


def test_a_packed_teacher_goes_by_its_files(family: Family, tmp_path: Path) -> None:
    """Its version is that of another place: a hub's commit, say."""
    hub = replace(family, provenance={**family.provenance, VERSION: "0123abcd"})
    write_family(hub, family.root)
    with pytest.raises(FamilyError, match="version must be 0123abcd"):
        pack_family(load_family(family.root), tmp_path / "out")
    write_family(replace(hub, provenance=family.provenance), family.root)
    packed = pack_family(load_family(family.root), tmp_path / "packed")
    write_family(replace(packed, provenance=hub.provenance), packed.root)
    assert merge_family(load_family(packed.root), tmp_path / "merged").rows


@pytest.mark.parametrize("command", [["evaluate"], ["search", "ladder"]])
def test_no_measurement_of_it_is_saved(command: list[str], family: Family, text: Path) -> None:
    write_over(family)
    before = (family.root / "family.json").read_bytes()
    measure = [*command, family.root, "--text", text, *SAMPLE]
    done = run(*measure, "--save")
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "is not the teacher that tiny was made from" in done.output
    assert (family.root / "family.json").read_bytes() == before
    assert command != ["evaluate"] or run(*measure).exit_code == 0


def test_a_stopped_evaluation_of_another_one_does_not_go_on(
    family: Family, text: Path, tmp_path: Path
) -> None:
    measure = ["evaluate", family.root, "--text", text, *SAMPLE]
    first = run(*measure, "--out", tmp_path / "kept").stdout
    assert run(*measure, "--out", tmp_path / "kept").stdout == first
    write_over(family)
    other = run(*measure).stdout
    assert other != first
    assert run(*measure, "--out", tmp_path / "kept").stdout == other


def test_nor_do_its_answers(bench: Bench) -> None:
    task = bench.task("pick", CHOICES)
    first = bench.run(task)
    assert bench.run(task) == first
    assert not bench.told  # all of them were kept
    write_over(bench.family)
    other = bench.run(task)
    assert len(bench.told) == len(bench.family.rows)
    assert other != first
    assert other == bench.run(task, out="another")
