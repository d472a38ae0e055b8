"""From text and a recipe to a measured family, on a tiny random Llama."""

import itertools
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.devices import usable_device
from boomerang_core.distill import pipeline, sampling
from boomerang_core.distill.data import pack, split_rows
from boomerang_core.distill.kept import kept_layers
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.recipe import Recipe, pairs
from boomerang_core.distill.result import CURVE
from boomerang_core.distill.sampling import prompts
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.stream import LayerRunner
from boomerang_core.errors import (
    BlockMapError,
    DataError,
    LadderError,
    SettingsError,
    SizeError,
    WriteError,
)
from boomerang_core.evaluate.perplexity import detokenise, evaluate_routes, lanes, naive_route
from boomerang_core.evaluate.record import save_report
from boomerang_core.family import Family, load_family
from boomerang_core.route import LayerRef, Owner, Route, build_route
from tests.core.conftest import (
    ROW_LENGTH,
    VOCABULARY,
    tiny_recipe,
    tiny_teacher,
    tiny_tokenizer,
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_teacher("llama", True).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return tiny_recipe(str(folder))


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


@pytest.fixture(scope="module", params=["full", "lowrank"])
def made(
    request: pytest.FixtureRequest, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Family, Path]:
    root = tmp_path_factory.mktemp(request.param)
    chosen = replace(recipe, kind=request.param)
    return chosen, make(chosen, root / "family", root / "work"), root / "work"


def student_bytes(family: Family) -> bytes:
    return (family.student_dir / "model.safetensors").read_bytes()


class TestText:
    def test_no_document_is_on_both_sides(self) -> None:
        documents = [torch.full((40,), i) for i in range(12)]
        rows = split_rows(documents, 20, heldout_every=4, seed=0)
        assert not set(rows.train.flatten().tolist()) & set(rows.heldout.flatten().tolist())

    def test_too_little_text_is_refused(self) -> None:
        with pytest.raises(DataError, match="fewer than one row"):
            pack([torch.arange(5)], 8, "held-out")

    def test_wikitext_becomes_prose(self) -> None:
        text = (
            ' = Title = \n A guest @-@ starring role , in 2000 . It is <unk> . " Yes " , he said .'
        )
        assert detokenise(text) == 'A guest-starring role, in 2000. "Yes", he said.'

    def test_prompts_begin_as_documents_do_or_ask_about_them(self) -> None:
        tokenizer = tiny_tokenizer()
        documents = [torch.arange(4, 60), torch.arange(5, 61)]
        first, opening, request = itertools.islice(prompts(tokenizer, documents, seed=0), 3)
        assert len(first) > 0
        assert opening.tolist() in [document[: len(opening)].tolist() for document in documents]
        assert any(
            document[:20].tolist() in request.unfold(0, 20, 1).tolist() for document in documents
        )

    def test_prompts_without_documents_repeat(self) -> None:
        found = list(itertools.islice(prompts(tiny_tokenizer(), [], seed=0), 96))
        assert all(torch.equal(one, again) for one, again in zip(found, found[48:], strict=False))


class TestRecipe:
    def test_pairs_leave_shared_layers_alone(self) -> None:
        assert pairs(7, (0, 3)) == [[0], [1, 2], [3], [4, 5], [6]]

    def test_round_trip(self, recipe: Recipe) -> None:
        assert Recipe.from_json(recipe.to_json()) == recipe

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "sparse"},
            {"ladder": "sideways"},
            {"layout": "threes"},
            {"rank": 0},
            {"sample_tokens": 0},
            {"unheard_of": 1},
            {"start": "cold"},
            {"start": "random"},  # of a low-rank student
            {"start": "random", "kind": "full"},  # and then nothing
            {"start": "naive"},
            {"own_embeddings": True},
            {"kept": "[0,"},
            {"kept": '["0"]'},
            {"layout": "[0,1]"},
        ],
    )
    def test_refuses_what_it_does_not_know(self, recipe: Recipe, change: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            Recipe.from_json({**recipe.to_json(), **change}).block_map(6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"text": "prose.txt"}, r"text must be a list, each a string, got 'prose\.txt'"),
            ({"shared": [0, "1"]}, "shared must be a list, each a whole number"),
            ({"rank": "8"}, "rank must be a whole number, got '8'"),
            ({"rank": True}, "rank must be a whole number, got True"),
            ({"seed": None}, "seed must be a whole number, got None"),
            ({"chat_share": "half"}, "chat_share must be a number or null, got 'half'"),
            ({"own_embeddings": 1}, "own_embeddings must be true or false"),
            ({"kept": 2}, "kept must be a string"),
            ({"end_to_end": {"clip": "1"}}, "clip must be a number"),
            ({"end_to_end": {"objective": 3}}, "objective must be an object of settings"),
            ({"kept": "0;2"}, r"measured, sequential, first, or layers such as \[0,2,4\]"),
        ],
    )
    def test_a_value_of_another_type_is_named(
        self, recipe: Recipe, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            Recipe.from_json({**recipe.to_json(), **change})

    def test_lists_are_lists_in_json_too(self, recipe: Recipe) -> None:
        lists = {
            "layout": [[0], [1, 2], [3, 4], [5]],
            "kept": [0, 2, 3, 5],
            "ladder": [[1, 2, 3, 0]],
        }
        plain = Recipe.from_json({**recipe.to_json(), **lists, "learning_rate": 1})
        text = {name: json.dumps(value, separators=(",", ":")) for name, value in lists.items()}
        assert plain == replace(recipe, **text, learning_rate=1)
        assert [block.kept for block in plain.block_map(6)] == lists["kept"]

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "a@b", "a b", "a\tb", "a\u00a0b", "a\\b"]
    )
    def test_a_name_that_no_server_can_use(self, recipe: Recipe, name: str) -> None:
        with pytest.raises(SettingsError, match="name must be one word without '/' and '@'"):
            replace(recipe, name=name)

    def test_blocks_kept_layers_and_ladder_as_json(self, recipe: Recipe) -> None:
        layout = "[[0],[1,2],[3,4],[5]]"
        chosen = replace(recipe, layout=layout, kept="[0,2,3,5]", ladder="[[1],[2,3,0]]")
        block_map = chosen.block_map(6)
        assert [block.kept for block in block_map] == [0, 2, 3, 5]
        assert chosen.patch_order(block_map).steps == ((1,), (2, 3, 0))

    @pytest.mark.parametrize("ladder", ["[[0],[1]]", "[[0],[0,1,2,3]]", "[[9]]"])
    def test_a_ladder_that_does_not_fit_the_blocks(self, recipe: Recipe, ladder: str) -> None:
        chosen = replace(recipe, ladder=ladder)
        with pytest.raises(LadderError):
            chosen.patch_order(chosen.block_map(6))


class TestEvaluate:
    def test_equals_a_plain_computation(self) -> None:
        model = tiny_teacher("llama", True)
        ids = torch.randint(0, VOCABULARY, (2, ROW_LENGTH))
        refs = [LayerRef(Owner.TEACHER, layer) for layer in range(6)]
        whole = Route(tuple(refs), Owner.TEACHER, Owner.TEACHER)
        shorter = Route((*refs[:3], *refs[4:]), Owner.TEACHER, Owner.TEACHER)
        runner = LayerRunner(model, ROW_LENGTH)
        block_map = Recipe("x", "x", layout="[[0],[1],[2],[3],[4],[5]]").block_map(6)
        same, less = evaluate_routes(
            lanes(runner, None, block_map), whole, [whole, shorter], ids, "test"
        )
        assert same.kl == pytest.approx(0, abs=1e-5)
        assert same.top1 == 1

        teacher = model(ids).logits[:, :-1].log_softmax(-1)
        model.model.layers = torch.nn.ModuleList(
            layer for place, layer in enumerate(model.model.layers) if place != 3
        )
        model.config.num_hidden_layers = 5
        student = model(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        kl = (teacher.exp() * (teacher - student)).sum(-1).mean()
        loss = -student.gather(-1, ids[:, 1:, None]).mean()
        assert less.kl == pytest.approx(float(kl), rel=1e-4)
        assert less.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)
        assert less.n == 2 * (ROW_LENGTH - 1)


class TestKept:
    """On a plain copy of the teacher that lacks layers."""

    LAYOUT = "[[0],[1,2],[3,4],[5]]"

    @pytest.fixture
    def rows(self) -> torch.Tensor:
        return torch.randint(
            VOCABULARY, (2, ROW_LENGTH), generator=torch.Generator().manual_seed(1)
        )

    def kl(self, layers: list[int], ids: torch.Tensor) -> float:
        model = tiny_teacher("llama", True)
        teacher = model(ids).logits[:, :-1].log_softmax(-1)
        model.model.layers = torch.nn.ModuleList(model.model.layers[layer] for layer in layers)
        model.config.num_hidden_layers = len(layers)
        other = model(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        return float((teacher.exp() * (teacher - other)).sum(-1).mean())

    def kept(self, how: str, rows: torch.Tensor, stage: Path) -> list[int]:
        runner = LayerRunner(tiny_teacher("llama", True), ROW_LENGTH)
        plain = Recipe("x", "x", layout=self.LAYOUT).block_map(6)
        return [block.kept for block in kept_layers(how, runner, plain, rows, stage)]

    def test_measured_keeps_what_is_missed_most(self, rows: torch.Tensor, tmp_path: Path) -> None:
        without = {i: self.kl([k for k in range(6) if k != i], rows) for i in (1, 2, 3, 4)}
        wanted = [0, max((1, 2), key=without.__getitem__), max((3, 4), key=without.__getitem__), 5]
        assert self.kept("measured", rows, tmp_path) == wanted

    def test_sequential_counts_what_is_pruned_already(
        self, rows: torch.Tensor, tmp_path: Path
    ) -> None:
        first = min((1, 2), key=lambda k: self.kl([0, k, 3, 4, 5], rows))
        second = min((3, 4), key=lambda k: self.kl([0, first, k, 5], rows))
        assert self.kept("sequential", rows, tmp_path) == [0, first, second, 5]
        assert self.kept("sequential", rows[:0], tmp_path) == [0, first, second, 5]  # from the disk


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


class TestBeforeTheFirstStage:
    """What the user can mend shows before anything is made."""

    @pytest.fixture(autouse=True)
    def nothing_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def made(*_: Any) -> None:
            raise AssertionError("a stage was begun")

        monkeypatch.setattr(pipeline, "_text", made)

    @pytest.mark.parametrize(
        ("text", "message"), [(None, "cannot read evaluation text"), ("w4 w5", "has 2 tokens")]
    )
    def test_a_text_to_measure_on(
        self, text: str | None, message: str, recipe: Recipe, tmp_path: Path
    ) -> None:
        if text is not None:
            (tmp_path / "text").write_text(text)
        with pytest.raises(DataError, match=message):
            make(recipe, tmp_path / "out", tmp_path / "work", tmp_path / "text")

    @pytest.mark.parametrize("name", ["out", "work"])
    def test_a_folder_that_is_a_file(self, name: str, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / name).touch()
        with pytest.raises(WriteError, match=f"cannot write into .*{name}"):
            make(recipe, tmp_path / "out", tmp_path / "work")

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            # a step that changes one layer for another of as many parameters
            (
                {"layout": "[[0],[1],[2,3,4,5]]", "ladder": "[[0],[1],[2]]", "kind": "full"},
                SizeError,
            ),
            ({"layout": "[[0,1],[2,3]]"}, BlockMapError),
            ({"ladder": "[[0],[1]]"}, LadderError),
        ],
    )
    def test_sizes(
        self, change: dict[str, Any], error: type[Exception], recipe: Recipe, tmp_path: Path
    ) -> None:
        chosen = replace(recipe, shared=(), **change)
        with pytest.raises(error):
            make(chosen, tmp_path / "out", tmp_path / "work")


class TestTheTeacher:
    def test_a_hub_id_is_pinned(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = "0123456789abcdef0123456789abcdef01234567"
        (tmp_path / commit).symlink_to(recipe.teacher)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: tmp_path / commit)
        hub = replace(recipe, teacher="lab/teacher", steps=0)
        family = make(hub, tmp_path / "out", tmp_path / "work")
        assert (family.teacher.location, family.teacher.revision) == ("lab/teacher", commit)
        assert Recipe.read(family.root / "recipe.json").teacher == f"lab/teacher@{commit}"

    def test_another_one_in_its_place_makes_another_family(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        teacher = tmp_path / "teacher"
        shutil.copytree(recipe.teacher, teacher)
        chosen = replace(recipe, teacher=str(teacher), steps=0)
        first = make(chosen, tmp_path / "first", tmp_path / "work")
        stages = set((tmp_path / "work").iterdir())
        make(chosen, tmp_path / "again", tmp_path / "work")
        assert set((tmp_path / "work").iterdir()) == stages
        model = tiny_teacher("llama", True)
        for parameter in model.parameters():
            parameter *= 1.5
        model.save_pretrained(teacher)
        other = make(chosen, tmp_path / "other", tmp_path / "work")
        made_anew = set((tmp_path / "work").iterdir()) - stages
        assert {path.name.partition("-")[0] for path in made_anew} == {"text", "blocks", "training"}
        assert student_bytes(other) != student_bytes(first)
        versions = {family.provenance["teacher_version"] for family in (first, other)}
        assert len(versions) == 2

    def test_text_that_it_was_writing_is_not_lost(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = replace(recipe, sample_rows=4, steps=0)
        plain, asked = sampling._generate, []

        def generate(*args: Any) -> list[torch.Tensor]:
            asked.append(args)
            if len(asked) == stopped:
                raise KeyboardInterrupt
            return plain(*args)

        monkeypatch.setattr(sampling, "_generate", generate)
        stopped = 0
        make(chosen, tmp_path / "whole", tmp_path / "other")
        batches = len(asked)
        stopped = batches + 3
        with pytest.raises(KeyboardInterrupt):
            make(chosen, tmp_path / "out", tmp_path / "work")
        make(chosen, tmp_path / "out", tmp_path / "work")
        assert len(asked) == batches + 3 + (batches - 2)
        one, other = (path.read_bytes() for path in tmp_path.glob("*/text-*/samples.safetensors"))
        assert one == other
        assert not list(tmp_path.glob("*/text-*/samples"))


class TestEndToEnd:
    def test_it_goes_on_from_the_blocks(
        self, recipe: Recipe, longer: Recipe, tmp_path: Path
    ) -> None:
        blockwise = make(recipe, tmp_path / "blockwise", tmp_path / "work")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/*")}
        trained = make(longer, tmp_path / "trained", tmp_path / "work")
        assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing made again
        assert student_bytes(trained) != student_bytes(blockwise)
        assert len((trained.root / CURVE).read_text().splitlines()) == 12
        assert not (blockwise.root / CURVE).exists()
        after, first = (
            json.loads((family.root / "report" / "sizes.json").read_text())[0]["kl"]
            for family in (trained, blockwise)
        )
        assert after < first
        save_report(trained, "tasks.json", {"rows": []})
        over = make(recipe, trained.root, tmp_path / "work")  # nothing of the family before
        assert not (over.root / CURVE).exists()
        assert not (over.root / "report" / "tasks.json").exists()

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


def test_lists_of_a_recipe_are_options_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recipe] = []
    shipped = load_family(cli.common.FAMILIES / "smollm2-135m")
    monkeypatch.setattr(pipeline, "make", lambda recipe, *_: made.append(recipe) or shipped)
    command = ["make", "--out", str(tmp_path / "out"), "--teacher", "x"]
    for kept in (["--kept", "0,2,4"], ["--kept", "[0,2,4]"], ["--set", "kept=[0,2,4]"]):
        options = [*kept, "--set", "layout=[[0],[1,2],[3,4]]"]
        result = CliRunner().invoke(cli.app, [*command, *options])
        assert result.exit_code == 0, result.output
    assert {(recipe.kept, recipe.layout) for recipe in made} == {("[0,2,4]", "[[0],[1,2],[3,4]]")}


class TestProcesses:
    """`make` as a program of its own, on the tiny teacher."""

    def run(self, launcher: list[str], recipe: Recipe, out: Path, **more: Any) -> Any:
        path = out.with_suffix(".json")
        path.write_text(json.dumps(recipe.to_json()))
        command = [sys.executable, *launcher, "-m", "boomerang_core", "make"]
        command += ["--recipe", str(path), "--out", str(out), "--threads", "1", "--device", "cpu"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **more)

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


def test_a_device_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(SettingsError, match="cannot use device 'abacus'"):
        usable_device("abacus")


def student_tensors(family: Family) -> dict[str, torch.Tensor]:
    return load_file(family.student_dir / "model.safetensors")


def test_naive_route_has_only_teacher_layers(made: tuple[Recipe, Family, Path]) -> None:
    design = made[1].design
    route = naive_route(build_route(design, 0), design.block_map)
    assert {ref.owner for ref in route.layers} == {Owner.TEACHER}
    assert [ref.index for ref in route.layers] == [block.kept for block in design.block_map]
