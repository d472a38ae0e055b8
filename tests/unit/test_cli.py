"""The offline commands, on a small family folder; no torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.blocks import BlockMap
from boomerang_core.family import Family, TeacherRef, build_rows, write_family
from boomerang_core.footprint import ModelShape
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.sizes import Quality

runner = CliRunner()


@pytest.fixture
def family_dir(tmp_path: Path) -> Path:
    block_map = BlockMap.from_layers([[0], [1, 2], [3, 4], [5]], shared=(0, 5))
    design = FamilyDesign(block_map, Ladder.last_to_first(block_map), StudentKind.LOWRANK)
    shape = ModelShape(6, 32, 2, 8, 9_280_000, 2_048_000, 2_048_000, 32, tied=True)
    quality = {0: Quality(0.5, 0.6, 40.0, 1000)}
    folder = tmp_path / "small"
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_bytes(b"tensors")
    family = Family(
        name="small",
        architecture="LlamaForCausalLM",
        design=design,
        shape=shape,
        teacher=TeacherRef("folder", "teacher"),
        rows=build_rows(design, shape, quality, offered=frozenset({0, 2})),
        student_params=1000,
        footprint_tokens=100,
        default_size=2,
        root=folder,
    )
    write_family(family, folder)
    return folder


def test_help_names_every_command() -> None:
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for command in ("make", "evaluate", "export", "sizes", "verify"):
        assert command in result.output


def test_sizes_prints_one_line_a_size(family_dir: Path) -> None:
    result = runner.invoke(cli.app, ["sizes", str(family_dir)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == 1 + 3 + 2  # a heading, the sizes, two notes
    assert "0.5000" in lines[1]
    assert "not offered" in lines[2]


def test_verify_accepts_a_whole_folder(family_dir: Path) -> None:
    result = runner.invoke(cli.app, ["verify", str(family_dir)])
    assert result.exit_code == 0
    assert "small: whole, 3 sizes" in result.output


def test_verify_refuses_a_flipped_byte(family_dir: Path) -> None:
    (family_dir / "student" / "model.safetensors").write_bytes(b"tensorS")
    result = runner.invoke(cli.app, ["verify", str(family_dir)])
    assert result.exit_code == 2
    assert "model.safetensors is corrupt" in result.output


def test_a_folder_without_a_family_is_one_line(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["sizes", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --teacher"),
        (["--preset", "no-such"], "there is no preset"),
        (["--teacher", "x", "--kind", "sparse"], "kind must be one of"),
        (["--preset", "smollm2-135m", "--recipe", "r.json"], "not both"),
        (["--recipe", "missing.json"], "cannot read a recipe"),
    ],
)
def test_make_refuses(options: list[str], reason: str, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["make", "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert reason in result.output


def test_options_go_on_top_of_a_preset(tmp_path: Path) -> None:
    given = {"seed": 7, "rank": None}
    recipe = cli._recipe("smollm2-135m", None, tmp_path, given)
    assert (recipe.seed, recipe.rank, recipe.name) == (7, 32, "smollm2-135m")


def test_a_shipped_family_goes_by_its_name() -> None:
    assert cli.family_folder(Path("smollm2-135m")) == cli.FAMILIES / "smollm2-135m"


def test_sizes_loads_no_torch(family_dir: Path) -> None:
    code = (
        "import sys; from boomerang_core.cli import app\n"
        f"app(['sizes', {str(family_dir)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
