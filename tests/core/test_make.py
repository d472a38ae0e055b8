"""From text and a recipe to a measured family, on a tiny random Llama."""

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from boomerang_core.contents import REPORT, TRAINING, files_in
from boomerang_core.distill.metrics import METRICS
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.state import STATE
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.record import save_report
from boomerang_core.family import Family, load_family
from boomerang_core.packing import pack_family
from boomerang_core.route import Owner, build_route, naive_route
from tests.core.conftest import ROW_LENGTH, student_bytes


@pytest.fixture(scope="module")
def longer(recipe: Recipe) -> Recipe:
    stage = EndToEnd(
        tokens=12 * 4 * ROW_LENGTH,
        batch_rows=4,
        micro_rows=4,
        learning_rate=5e-3,
        interpolated=0.5,
        precision="fp32",
    )
    return replace(recipe, end_to_end=stage)


@pytest.fixture(scope="module")
def made_longer(longer: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("longer")
    return make(longer, root / "family", root / "work")


@pytest.fixture(scope="module", params=["full", "lowrank", "lowrank-mlp"])
def made(
    request: pytest.FixtureRequest, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Family, Path]:
    root = tmp_path_factory.mktemp(request.param)
    kind, _, maps = request.param.partition("-")
    chosen = replace(recipe, kind=kind, maps=maps or "all")
    return chosen, make(chosen, root / "family", root / "work"), root / "work"


def student_tensors(family: Family) -> dict[str, torch.Tensor]:
    return load_file(family.student_dir / "model.safetensors")


class TestMake:
    def test_writes_a_whole_family(self, made: tuple[Recipe, Family, Path]) -> None:
        recipe, family, _ = made
        loaded = load_family(family.root)
        assert loaded.design == family.design
        assert loaded.rows == family.rows
        assert loaded.design.kind == recipe.kind
        stage = recipe.end_to_end.on(torch.device("cpu"))
        assert Recipe.read(family.root / "recipe.json") == replace(recipe, end_to_end=stage)
        assert loaded.provenance["seed"] == recipe.seed
        assert "of which the teacher wrote about" in loaded.provenance["evaluation"]["text"]

    def test_the_student_is_better_than_naive_pruning_and_the_teacher_perfect(
        self, made: tuple[Recipe, Family, Path]
    ) -> None:
        _, family, _ = made
        naive = json.loads((family.root / "report" / "naive.json").read_text())
        kls = [row.quality.kl for row in family.rows if row.quality is not None]
        assert kls[0] < naive[0]["kl"]
        assert kls[-1] == pytest.approx(0, abs=1e-4)
        assert len(kls) == family.design.ladder.num_sizes

    def test_shared_blocks_have_no_tensors(self, made: tuple[Recipe, Family, Path]) -> None:
        _, family, _ = made
        blocks = {int(name.split(".")[2]) for name in student_tensors(family)}
        own = {index for index, block in enumerate(family.design.block_map) if not block.shared}
        assert blocks == own

    def test_same_seed_same_bytes(self, made: tuple[Recipe, Family, Path], tmp_path: Path) -> None:
        recipe, family, _ = made
        again = make(recipe, tmp_path / "family", tmp_path / "work")
        assert student_bytes(again) == student_bytes(family)

    def test_another_seed_other_bytes(
        self, made: tuple[Recipe, Family, Path], tmp_path: Path
    ) -> None:
        recipe, family, _ = made
        other = make(replace(recipe, seed=1), tmp_path / "family", tmp_path / "work")
        assert student_bytes(other) != student_bytes(family)

    def test_a_stopped_run_goes_on_to_the_same_bytes(
        self, made: tuple[Recipe, Family, Path], tmp_path: Path
    ) -> None:
        recipe, family, work = made
        finished = sorted(work.glob("*/block-*.safetensors"))
        assert len(finished) == 2
        finished[-1].unlink()
        untouched = finished[0].stat().st_mtime_ns
        resumed = make(recipe, tmp_path / "family", work)
        assert student_bytes(resumed) == student_bytes(family)
        assert finished[0].stat().st_mtime_ns == untouched


def test_naive_route_has_only_teacher_layers(made: tuple[Recipe, Family, Path]) -> None:
    design = made[1].design
    route = naive_route(build_route(design, 0), design.block_map)
    assert {ref.owner for ref in route.layers} == {Owner.TEACHER}
    assert [ref.index for ref in route.layers] == [block.kept for block in design.block_map]


class TestEndToEnd:
    def test_it_goes_on_from_the_blocks(
        self, recipe: Recipe, longer: Recipe, tmp_path: Path
    ) -> None:
        blockwise = make(recipe, tmp_path / "blockwise", tmp_path / "work")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/*")}
        trained = make(longer, tmp_path / "trained", tmp_path / "work")
        assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing made again
        assert student_bytes(trained) != student_bytes(blockwise)
        assert len((trained.root / REPORT / TRAINING).read_text().splitlines()) == 12
        assert not (blockwise.root / REPORT / TRAINING).exists()
        after, first = (
            json.loads((family.root / "report" / "sizes.json").read_text())[0]["kl"]
            for family in (trained, blockwise)
        )
        assert after < first
        save_report(trained, "tasks.json", {"rows": []})
        packed = pack_family(load_family(trained.root), tmp_path / "packed")
        over = make(recipe, packed.root, tmp_path / "work")  # nothing of the family before
        listed = json.loads((over.root / "family.json").read_text())["sha256"]
        assert listed == json.loads((blockwise.root / "family.json").read_text())["sha256"]
        assert set(listed) == set(files_in(over.root))

    def test_same_seed_same_bytes(
        self, longer: Recipe, made_longer: Family, tmp_path: Path
    ) -> None:
        again = make(longer, tmp_path / "family", tmp_path / "work")
        assert student_bytes(again) == student_bytes(made_longer)

    def test_starts_differ_and_random_weights_are_the_worst(
        self, longer: Recipe, tmp_path: Path
    ) -> None:
        full = replace(longer, kind="full", own_embeddings=True, shared=())
        kl = {}
        for start in ("blockwise", "naive", "random"):
            family = make(replace(full, start=start), tmp_path / start, tmp_path / "work")
            assert family.design.own_embeddings
            blocks = json.loads((family.root / "report" / "blocks.json").read_text())
            assert bool(blocks) is (start == "blockwise")
            kl[start] = json.loads((family.root / "report" / "sizes.json").read_text())[0]["kl"]
        assert kl["blockwise"] < kl["naive"] < kl["random"]

    @pytest.mark.parametrize(
        "stage", [{"tokens": "many"}, {"unheard_of": 1}, {"objective": {"kl": -1}}, [1]]
    )
    def test_refuses_what_it_does_not_know(self, recipe: Recipe, stage: Any) -> None:
        with pytest.raises(SettingsError):
            Recipe.from_json({**recipe.to_json(), "end_to_end": stage})


class TestProcesses:
    """`make` as a program of its own, on the tiny teacher."""

    def command(self, launcher: list[str], recipe: Recipe, out: Path) -> list[str]:
        path = out.with_suffix(".json")
        path.write_text(json.dumps(recipe.to_json()))
        command = [sys.executable, *launcher, "-m", "boomerang_core", "make", "--recipe", str(path)]
        return [*command, "--out", str(out), "--threads", "1", "--device", "cpu"]

    def run(self, launcher: list[str], recipe: Recipe, out: Path, **more: Any) -> Any:
        command = self.command(launcher, recipe, out)
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **more)

    def test_told_to_stop_it_says_that_it_goes_on(self, longer: Recipe, tmp_path: Path) -> None:
        endless = replace(longer, end_to_end=replace(longer.end_to_end, tokens=10**9))
        command = self.command([], endless, tmp_path / "out")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            for _ in range(600):
                if any(tmp_path.rglob(METRICS)) or process.poll() is not None:
                    break
                time.sleep(0.1)
            process.terminate()
            _, told = process.communicate(timeout=60)
        assert process.returncode == 75, told
        assert "error: told to stop: the same command goes on; the state before step" in told
        assert "Traceback" not in told
        assert list(tmp_path.rglob(STATE))

    def test_two_processes_make_the_family_of_one(
        self, longer: Recipe, made_longer: Family, tmp_path: Path
    ) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = self.run(launcher, longer, tmp_path / "both")
        assert done.returncode == 0, done.stderr
        both = load_family(tmp_path / "both")
        assert (both.provenance["processes"], made_longer.provenance["processes"]) == (2, 1)
        for mine, theirs in zip(made_longer.rows, both.rows, strict=True):
            assert mine.quality is not None
            assert theirs.quality is not None
            assert theirs.quality.kl == pytest.approx(mine.quality.kl, rel=0.01, abs=1e-4)

    def test_rows_that_processes_cannot_share_are_refused_before_the_first_stage(
        self, longer: Recipe, tmp_path: Path
    ) -> None:
        alone = replace(longer, end_to_end=replace(longer.end_to_end, batch_rows=3, micro_rows=1))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = self.run(launcher, alone, tmp_path / "both")
        assert done.returncode != 0
        assert "error: 2 processes cannot share 3 rows evenly" in done.stderr
        assert not (tmp_path / "both.work").exists()

    @pytest.mark.parametrize("made", ["lowrank"], indirect=True)
    def test_a_full_disk_is_one_line_and_a_later_run_goes_on(
        self, made: tuple[Recipe, Family, Path], tmp_path: Path
    ) -> None:
        recipe, family, _ = made

        def small_files() -> (
            None
        ):  # the system then refuses to let a file grow, as a full disk does
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

        failed = self.run([], recipe, tmp_path / "out", preexec_fn=small_files)
        assert failed.returncode == 2
        errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "cannot write" in errors[0]
        assert "Traceback" not in failed.stderr
        assert not (tmp_path / "out" / "family.json").exists()
        assert not list(tmp_path.rglob(".*"))  # nor a temporary file
        again = make(recipe, tmp_path / "out", tmp_path / "out.work")
        assert student_bytes(again) == student_bytes(family)
