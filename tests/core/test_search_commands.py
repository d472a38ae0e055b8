"""`search ladder` and `search layout` from the command line, on tiny families."""

import errno
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.blocks import BlockMap
from boomerang_core.distill.recipe import Recipe
from boomerang_core.errors import WriteError
from boomerang_core.evaluate.ladder import Measured, evaluate_family
from boomerang_core.evaluate.record import rounded, save_report
from boomerang_core.family import Family, load_family
from boomerang_core.files import save_json
from boomerang_core.initial_student import initial_student
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.search.save import save_ladder
from boomerang_core.sizes import Quality
from boomerang_core.student import Student
from boomerang_core.text.evaluation import Sample
from tests.core.conftest import (
    LAYERS,
    RANK,
    ROW_LENGTH,
    VOCABULARY,
    tiny_recipe,
    tiny_teacher,
    tiny_tokenizer,
    write_tiny_family,
)

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
runner = CliRunner()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "held-out.txt"
    rng = random.Random(0)
    path.write_text(" ".join(f"w{rng.randrange(4, VOCABULARY)}" for _ in range(600)))
    return path


BLOCKS = BlockMap.from_layers([[0, 1], [2], [3, 4], [5]], kept=[1, 2, 3, 5], shared=[2])


def write_family(folder: Path, kind: StudentKind, own: bool, ladder: Ladder) -> Family:
    teacher = tiny_teacher("llama", tied=False)
    torch.manual_seed(1)
    start = initial_student(teacher, BLOCKS, kind, RANK, own)
    tensors = {n: t + 0.1 * torch.randn_like(t) for n, t in start.tensors.items()}
    student: Student = start.with_tensors(tensors)
    design = FamilyDesign(BLOCKS, ladder, kind, own)
    folder.mkdir()
    save_json(tiny_recipe("x").to_json(), folder / "recipe.json")
    return write_tiny_family(folder, teacher, student, design)


class TestCommands:
    @pytest.fixture(params=[(LOWRANK, False), (FULL, True)], ids=["lowrank", "full-own"])
    def family(self, request: pytest.FixtureRequest, tmp_path: Path) -> Family:
        return write_family(tmp_path / "family", *request.param, Ladder.last_to_first(BLOCKS))

    @pytest.fixture
    def sample(self, text: Path, tmp_path: Path) -> list[str]:
        options = f"--text {text} --tokens 60 --row-length {ROW_LENGTH} --device cpu"
        return [*options.split(), "--work", str(tmp_path / "work")]

    def run(self, *words: object) -> str:
        result = runner.invoke(cli.app, ["search", *map(str, words)])
        assert result.exit_code == 0, result.output
        return result.stdout

    def test_compares_every_order(self, family: Family, sample: list[str], tmp_path: Path) -> None:
        out = tmp_path / "result.json"
        orders = ["klpatch", "first-to-last", "shortest-path", "cosine", "klpatch-backward"]
        options = [word for order in orders for word in ("--order", order)]
        command = ("ladder", family.root, *sample, *options, "--out", out)
        first = self.run(*command)
        record = json.loads(out.read_text())
        assert [row["order"] for row in record["ladders"]] == ["present", *orders]
        for row in record["ladders"]:
            assert Ladder.from_json(row["ladder"]).num_blocks == len(BLOCKS)
            assert row["area"] >= record["bound"] - 1e-6
        exact = record["ladders"][3]
        assert exact["gap"] == pytest.approx(0, abs=1e-6)
        assert exact["area"] == min(row["area"] for row in record["ladders"])
        assert record["sample"]["text"] == "held-out.txt"
        assert record["provenance"]["versions"]["torch"]
        assert "0 models measured" not in first
        again = self.run(*command)
        assert "0 models measured" in again
        assert again.splitlines()[:8] == first.splitlines()[:8]
        assert json.loads(out.read_text())["ladders"] == record["ladders"]

    @pytest.mark.parametrize(("kind", "own"), [(LOWRANK, False), (FULL, True)])
    def test_save_gives_the_family_the_better_ladder(
        self, kind: StudentKind, own: bool, sample: list[str], text: Path, tmp_path: Path
    ) -> None:
        """Whichever of two ladders a family begins with, it ends with the better one."""
        orders = {"last-to-first": Ladder.last_to_first, "first-to-last": Ladder.first_to_last}
        families = {
            order: write_family(tmp_path / order, kind, own, rule(BLOCKS))
            for order, rule in orders.items()
        }
        before = {order: (f.root / "family.json").read_bytes() for order, f in families.items()}
        options = [*sample, "--order", "last-to-first", "--order", "first-to-last"]
        options += ["--save", "--eval-tokens", "90"]
        said = {order: self.run("ladder", f.root, *options) for order, f in families.items()}
        kept = next(order for order, output in said.items() if "nothing to save" in output)
        (changed,) = families.keys() - {kept}
        assert (families[kept].root / "family.json").read_bytes() == before[kept]

        saved = load_family(families[changed].root)
        assert saved.design.ladder == families[kept].design.ladder
        params = [row.params for row in saved.rows]
        assert params == sorted(params)
        assert Recipe.read(saved.root / "recipe.json").patch_order(BLOCKS) == saved.design.ladder
        expected = evaluate_family(saved, Sample(text, 90, ROW_LENGTH))
        assert [row.quality for row in saved.rows] == [rounded(q) for q in expected.family]
        note = saved.provenance["ladder"]
        assert note["order"] == kept
        assert Ladder.from_json(note["distilled_with"]) == families[changed].design.ladder
        assert saved.provenance["evaluation"]["text"] == "held-out.txt"

    def test_a_default_that_is_no_longer_offered_becomes_a_smaller_one(
        self, family: Family, text: Path
    ) -> None:
        middle = replace(family, default_size=1)
        dip = [Quality(0.5, 0.5, 9.0, 90), Quality(0.6, 0.5, 9.0, 90), Quality(0.0, 1.0, 8.0, 90)]
        sample = Sample(text, 90, ROW_LENGTH)
        saved = save_ladder(
            middle, Ladder.first_to_last(BLOCKS), Measured(dip, dip), sample, {"order": "x"}
        )
        assert [row.offered for row in saved.rows] == [True, False, True]
        assert saved.default_size == 0
        assert load_family(family.root).rows == saved.rows

    def test_scores_of_the_old_sizes_go(self, family: Family, text: Path) -> None:
        for name in ("tasks.json", "similarity.json", "note.json"):
            save_report(family, name, {})
        self.save(family, text)
        names = {path.name for path in (load_family(family.root).root / "report").iterdir()}
        assert names == {"note.json", "naive.json", "sizes.json"}

    @pytest.mark.parametrize("failing", ["naive.json", "recipe.json", "family.json"])
    def test_a_save_that_fails_leaves_the_family_as_it_was(
        self, failing: str, family: Family, text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = Path.write_text

        def full(path: Path, *args: Any, **options: Any) -> int:
            if failing in path.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(path, *args, **options)

        files = {path: path.read_bytes() for path in family.root.rglob("*") if path.is_file()}
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            with pytest.raises(WriteError, match="No space left"):
                self.save(family, text)
        assert load_family(family.root) == family
        assert files == {p: p.read_bytes() for p in family.root.rglob("*") if p.is_file()}

    def save(self, family: Family, text: Path) -> Family:
        """Another ladder, as if it were measured."""
        kls = [Quality(kl, 0.5, 9.0, 90) for kl in (0.5, 0.2, 0.0)]
        sample, ladder = Sample(text, 90, ROW_LENGTH), Ladder.first_to_last(BLOCKS)
        return save_ladder(family, ladder, Measured(kls, kls), sample, {"order": "x"})

    def test_too_short_a_text_to_save_shows_before_the_search(
        self, family: Family, sample: list[str], tmp_path: Path
    ) -> None:
        command = ["search", "ladder", str(family.root), *sample, "--save"]
        result = runner.invoke(cli.app, command)
        assert result.exit_code == 2
        assert "scoring 8192 takes" in result.output
        assert not (tmp_path / "work").exists()

    def test_an_unknown_order_is_one_line(self, family: Family, sample: list[str]) -> None:
        command = ["search", "ladder", str(family.root), *sample, "--order", "best"]
        result = runner.invoke(cli.app, command)
        assert result.exit_code == 2
        assert result.output.startswith("error: order must be one of last-to-first")

    @pytest.mark.parametrize("by", ["kl", "cosine"])
    def test_a_layout_is_what_make_reads(self, by: str, sample: list[str], tmp_path: Path) -> None:
        tiny_teacher("llama", True).save_pretrained(tmp_path / "teacher")
        tiny_tokenizer().save_pretrained(tmp_path / "teacher")
        out = tmp_path / "layout.json"
        options = ("--layers", 4, "--max-block", 3, "--by", by, "--threshold", -1, "--out", out)
        output = self.run("layout", "--teacher", tmp_path / "teacher", *sample, *options)
        record = json.loads(out.read_text())
        compact = {
            name: json.dumps(record[name], separators=(",", ":")) for name in ("layout", "kept")
        }
        assert f"--layout '{compact['layout']}' --kept '{compact['kept']}'" in output
        recipe = Recipe(name="x", teacher="x", **compact)
        block_map = recipe.block_map(LAYERS)
        assert len(block_map) == 4
        assert [block.kept for block in block_map] == record["kept"]
        assert len(record["candidates"]) == 5 * 2 + 4 * 3
