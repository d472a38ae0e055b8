"""The stages of `make`, each alone: its text, the layers it keeps, its figures."""

import itertools
from pathlib import Path

import pytest
import torch

from boomerang_core.distill.kept import kept_layers
from boomerang_core.distill.prompts import teacher_prompts
from boomerang_core.distill.recipe import Recipe
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import LayerRef, Owner, Route
from boomerang_core.route_runner import RouteRunner
from boomerang_core.text.evaluation import detokenise
from tests.core.conftest import ROW_LENGTH, VOCABULARY, tiny_teacher, tiny_tokenizer


class TestText:
    def test_wikitext_becomes_prose(self) -> None:
        text = (
            ' = Title = \n A guest @-@ starring role , in 2000 . It is <unk> . " Yes " , he said .'
        )
        assert detokenise(text) == 'A guest-starring role, in 2000. "Yes", he said.'

    def test_prompts_begin_as_documents_do_or_ask_about_them(self) -> None:
        tokenizer = tiny_tokenizer()
        documents = [torch.arange(4, 60), torch.arange(5, 61)]
        found = itertools.islice(teacher_prompts(tokenizer, documents, seed=0), 3)
        first, opening, request = (prompt.ids for prompt in found)
        assert len(first) > 0
        assert opening.tolist() in [document[: len(opening)].tolist() for document in documents]
        assert any(
            document[:20].tolist() in request.unfold(0, 20, 1).tolist() for document in documents
        )

    def test_prompts_without_documents_repeat(self) -> None:
        asked = itertools.islice(teacher_prompts(tiny_tokenizer(), [], seed=0), 96)
        found = [prompt.ids for prompt in asked]
        assert all(torch.equal(one, again) for one, again in zip(found, found[48:], strict=False))


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
            RouteRunner(runner, None, block_map), whole, [whole, shorter], ids, "test"
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
