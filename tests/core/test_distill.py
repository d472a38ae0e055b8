"""Distillation on a tiny random Llama: exact properties first, then whole runs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from boomerang_core.blocks import BlockMap
from boomerang_core.distill.blockwise import BlockTrainer, Task
from boomerang_core.distill.closed_form import Moments, fit_down_map
from boomerang_core.distill.data import pack, split_rows
from boomerang_core.distill.lowrank import add_delta, balanced_factors, dense_weights, reduce_rank
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.recipe import Recipe, pairs
from boomerang_core.distill.stream import LayerRunner
from boomerang_core.errors import DataError, SettingsError
from boomerang_core.evaluate.perplexity import detokenise, evaluate_routes, lanes, naive_route
from boomerang_core.family import Family, load_family
from boomerang_core.route import LayerRef, Owner, Route, StudentKind, build_route
from boomerang_core.student import initial_student

VOCAB = 64
LENGTH = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(teacher_dir: Path) -> Recipe:
    return Recipe(
        name="tiny",
        teacher=str(teacher_dir),
        shared=(0, 5),
        rank=4,
        sample_tokens=3000,
        row_length=LENGTH,
        heldout_every=4,
        kept_tokens=100,
        steps=4,
        eval_tokens=200,
    )


@pytest.fixture(scope="module", params=["full", "lowrank"])
def made(
    request: pytest.FixtureRequest, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Family, Path]:
    root = tmp_path_factory.mktemp(request.param)
    chosen = replace(recipe, kind=request.param)
    return chosen, make(chosen, root / "family", root / "work"), root / "work"


def student_bytes(family: Family) -> bytes:
    return (family.student_dir / "model.safetensors").read_bytes()


class TestClosedForm:
    def test_finds_a_change_of_the_down_map_that_explains_everything(self) -> None:
        runner = LayerRunner(tiny_llama(), LENGTH)
        layer = runner.layers[2]
        delta = torch.randn(32, 64) / 8
        moved = {"mlp.down_proj.weight": layer.mlp.down_proj.weight + delta}
        inputs = torch.randn(16, LENGTH, 32)
        targets = runner.run(layer, 2, inputs, moved)
        found = fit_down_map(
            lambda hidden: runner.run(layer, 2, hidden),
            layer.mlp.down_proj,
            [(inputs, targets)],
            ridge=1e-9,
            rank=None,
        )
        torch.testing.assert_close(found, delta, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("kind", ["full", "lowrank"])
    def test_every_stage_lowers_the_block_error(self, kind: str, recipe: Recipe) -> None:
        model = tiny_llama()
        runner = LayerRunner(model, LENGTH)
        hidden = runner.embed(torch.randint(3, VOCAB, (96, LENGTH)))
        target = runner.run(runner.layers[2], 2, runner.run(runner.layers[1], 1, hidden))
        block_map = BlockMap.from_layers([[0], [1, 2], [3], [4], [5]])
        student = initial_student(model, block_map, StudentKind(kind), 4, False)
        parameters = student.layer(1)
        task = Task(hidden[:80], target[:80], hidden[80:], target[80:])
        fit = BlockTrainer(runner, 1, replace(recipe, kind=kind, steps=20, step_rows=16)).fit(
            parameters, task, 0
        )
        start, closed, trained = fit.errors
        assert trained < closed < start

    def test_reduced_rank_beats_truncating_the_free_solution(self) -> None:
        torch.manual_seed(1)
        inner = torch.randn(400, 24) @ torch.randn(24, 24)
        output = inner @ torch.randn(24, 16) + torch.randn(400, 16)
        moments = Moments.zeros(24, 16)
        moments.gram += inner.T @ inner
        moments.cross += inner.T @ output
        free = moments.solve(1e-6, None)
        left, right = balanced_factors(free, 4)

        def error(change: torch.Tensor) -> float:
            return float((inner @ change.T - output).square().sum())

        reduced = moments.solve(1e-6, 4)
        assert torch.linalg.matrix_rank(reduced) == 4
        assert error(free) < error(reduced) < error(left @ right)

    def test_reduced_rank_of_full_rank_is_the_free_solution(self) -> None:
        solution, cross = torch.randn(8, 5), torch.randn(8, 5)
        torch.testing.assert_close(reduce_rank(solution, cross, 5), solution)


class TestKinds:
    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_delta_is_the_same_weight_for_both_kinds(self, transposed: bool) -> None:
        weight, delta = torch.randn(6, 9), torch.randn(6, 2) @ torch.randn(2, 9)
        stored = weight.T.contiguous() if transposed else weight
        base = {"down.weight": stored}
        lowrank = {"down.lora_A": torch.randn(2, 9), "down.lora_B": torch.zeros(6, 2)}
        full = dense_weights(base, add_delta(base, "down", delta, transposed), transposed)
        low = dense_weights(base, add_delta(lowrank, "down", delta, transposed), transposed)
        torch.testing.assert_close(full["down.weight"], low["down.weight"])

    def test_an_untouched_lowrank_layer_is_the_teachers(self) -> None:
        model = tiny_llama()
        block_map = BlockMap.from_layers([[0], [1, 2], [3], [4], [5]])
        student = initial_student(model, block_map, StudentKind.LOWRANK, 4, False)
        base = model.model.layers[1].state_dict()
        weights = dense_weights(base, student.layer(1), transposed=False)
        assert weights.keys() == base.keys()
        assert all(torch.equal(weights[name], base[name]) for name in weights)


class TestStream:
    def test_layers_run_one_by_one_are_the_model(self) -> None:
        model = tiny_llama()
        runner = LayerRunner(model, LENGTH)
        ids = torch.randint(0, VOCAB, (3, LENGTH))
        hidden = runner.embed(ids)
        for place, layer in enumerate(runner.layers):
            hidden = runner.run(layer, place, hidden)
        assert torch.equal(runner.head(hidden), model(ids).logits)


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
        ],
    )
    def test_refuses_what_it_does_not_know(self, recipe: Recipe, change: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            Recipe.from_json({**recipe.to_json(), **change})


class TestEvaluate:
    def test_equals_a_plain_computation(self) -> None:
        model = tiny_llama()
        ids = torch.randint(0, VOCAB, (2, LENGTH))
        refs = [LayerRef(Owner.TEACHER, layer) for layer in range(6)]
        whole = Route(tuple(refs), Owner.TEACHER, Owner.TEACHER)
        shorter = Route((*refs[:3], *refs[4:]), Owner.TEACHER, Owner.TEACHER)
        runner = LayerRunner(model, LENGTH)
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
        assert less.n == 2 * (LENGTH - 1)


class TestMake:
    def test_writes_a_whole_family(self, made: tuple[Recipe, Family, Path]) -> None:
        recipe, family, _ = made
        loaded = load_family(family.root)
        assert loaded.design == family.design
        assert loaded.rows == family.rows
        assert loaded.design.kind == recipe.kind
        assert Recipe.read(family.root / "recipe.json") == recipe
        assert loaded.provenance["seed"] == recipe.seed

    def test_the_student_is_better_than_naive_pruning_and_the_teacher_perfect(
        self, made: tuple[Recipe, Family, Path]
    ) -> None:
        import json

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


def student_tensors(family: Family) -> dict[str, torch.Tensor]:
    return load_file(family.student_dir / "model.safetensors")


def test_naive_route_has_only_teacher_layers(made: tuple[Recipe, Family, Path]) -> None:
    design = made[1].design
    route = naive_route(build_route(design, 0), design.block_map)
    assert {ref.owner for ref in route.layers} == {Owner.TEACHER}
    assert [ref.index for ref in route.layers] == [block.kept for block in design.block_map]
