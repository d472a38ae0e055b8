"""Searches on tiny random models: what is measured, what is kept, what is written."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.assemble import assemble
from boomerang_core.blocks import Block, BlockMap
from boomerang_core.errors import BlockMapError, CheckpointError, DataError, SettingsError
from boomerang_core.initial_student import initial_student
from boomerang_core.ladder import Ladder
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import FamilyDesign, Route, StudentKind, route_of_set, spell
from boomerang_core.route_runner import RouteRunner
from boomerang_core.search import measure
from boomerang_core.search.ladders import lattice_of
from boomerang_core.search.layouts import LayoutChoice, replaced, search_layout
from boomerang_core.search.measure import Oracle, content_key, similarities
from tests.core.conftest import (
    LAYERS,
    RANK,
    ROW_LENGTH,
    VOCABULARY,
    tiny_student,
    tiny_teacher,
)

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
WHOLE = frozenset(range(4))


def ids(seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCABULARY, (2, ROW_LENGTH), generator=generator)


def tiny_design(kind: StudentKind, own: bool = False) -> FamilyDesign:
    """Two blocks of several layers, a one-layer block of the student's, a shared one."""
    block_map = BlockMap.from_layers([[0, 1], [2], [3], [4, 5]], kept=[1, 2, 3, 4], shared=[2])
    return FamilyDesign(block_map, Ladder.last_to_first(block_map), kind, own)


def plain_kl(teacher: Any, model: Any, ids_RL: torch.Tensor) -> float:
    """KL(teacher‖model) a token, from the logits of whole models."""
    with torch.no_grad():
        ours, theirs = (m(ids_RL).logits[:, :-1].log_softmax(-1) for m in (model, teacher))
    kl = torch.nn.functional.kl_div(ours, theirs, reduction="none", log_target=True)
    return float(kl.sum(-1).mean())


class Bench:
    """A teacher, a student, and an oracle over them."""

    def __init__(self, path: Path, kind: StudentKind, own: bool, name: str = "llama") -> None:
        self.teacher = tiny_teacher(name, tied=True)
        self.student = tiny_student(self.teacher, kind, own)
        self.design = tiny_design(kind, own)
        self.path = path

    def oracle(self) -> Oracle:
        both = RouteRunner.of(self.teacher, self.student, self.design, ROW_LENGTH)
        return Oracle(both, self.route(WHOLE), ids(), self.path)

    def route(self, patched: frozenset[int]) -> Route:
        return route_of_set(self.design, patched)

    def routes(self) -> list[Route]:
        return [self.route(patched) for patched in lattice_of(self.design).sizes()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "kl.json", LOWRANK, own=False)


class TestOracle:
    @pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
    @pytest.mark.parametrize(("kind", "own"), [(LOWRANK, False), (FULL, False), (FULL, True)])
    def test_is_the_kl_of_the_assembled_models(
        self, name: str, kind: StudentKind, own: bool, tmp_path: Path
    ) -> None:
        bench = Bench(tmp_path / "kl.json", kind, own, name)
        routes = bench.routes()
        random.Random(0).shuffle(routes)
        models = [assemble(bench.teacher, bench.student, route) for route in routes]
        expected = [plain_kl(bench.teacher, model, ids()) for model in models]
        assert bench.oracle().kl(routes) == pytest.approx(expected, rel=1e-4)
        assert len({round(kl, 4) for kl in expected}) == len(expected)  # a mix-up would show

    def test_goes_on_where_it_was(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        routes = bench.routes()
        first = bench.oracle()
        known = first.kl(routes[:3])
        assert (first.measured, first.reused) == (3, 0)
        second = bench.oracle()
        values = second.kl([*routes, routes[0]])
        assert values[:3] == known
        assert values[-1] == known[0]
        assert (second.measured, second.reused) == (len(routes) - 3, 3)
        monkeypatch.delattr(measure, "evaluate_routes")  # nothing may be measured from here on
        assert bench.oracle().kl(routes) == values[:-1]
        assert second.kl(routes) == values[:-1]

    def test_an_interrupted_search_keeps_what_it_has(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        routes = bench.routes()
        monkeypatch.setattr(measure, "_TOGETHER", 2)
        calls = []

        def stop(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return evaluate(*args)

        evaluate = measure.evaluate_routes
        monkeypatch.setattr(measure, "evaluate_routes", stop)
        with pytest.raises(KeyboardInterrupt):
            bench.oracle().kl(routes)
        assert len(json.loads(bench.path.read_text())) == 4
        resumed = bench.oracle()
        resumed.kl(routes)
        assert (resumed.measured, resumed.reused) == (len(routes) - 4, 4)

    def test_measures_neighbours_together(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fewer layers run than the routes have, because beginnings are shared."""
        ran = []
        step = RouteRunner.step
        monkeypatch.setattr(
            RouteRunner, "step", lambda self, *args: ran.append(args) or step(self, *args)
        )
        routes = bench.routes()
        bench.oracle().kl(routes)
        beginnings = {
            (row, route.layers[:depth])
            for route in [*routes, bench.route(WHOLE)]
            for depth in range(1, len(route.layers) + 1)
            for row in range(2)
        }
        assert len(ran) == len(beginnings)  # each distinct beginning once a row

    def test_a_model_that_gives_no_number_is_named(self, bench: Bench) -> None:
        broken = bench.student.with_tensors(
            {n: t * float("nan") for n, t in bench.student.tensors.items()}
        )
        both = RouteRunner.of(bench.teacher, broken, bench.design, ROW_LENGTH)
        with pytest.raises(CheckpointError, match=r"the model teacher s0 .* has a KL of nan"):
            Oracle(both, bench.route(WHOLE), ids(), bench.path).kl([bench.route(frozenset())])
        assert json.loads(bench.path.read_text()) == {}

    @pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', '{"a": null}'])
    def test_a_file_of_something_else_is_refused(self, bench: Bench, content: str) -> None:
        bench.path.write_text(content)
        with pytest.raises(DataError, match="delete it"):
            bench.oracle()

    def test_routes_are_spelled_apart(self, tmp_path: Path) -> None:
        routes = Bench(tmp_path, FULL, own=True).routes()
        assert len(set(map(spell, routes))) == len(set(routes))

    def test_the_key_changes_with_all_that_matters(self, bench: Bench) -> None:
        tensors = dict(bench.student.tensors)
        name = min(tensors)
        key = content_key(ids(), tensors, a=1)
        assert content_key(ids(), tensors, a=1) == key
        changed = {**tensors, name: tensors[name] + 1}
        others = [
            content_key(ids(3), tensors, a=1),
            content_key(ids()[:1], tensors, a=1),
            content_key(ids(), changed, a=1),
            content_key(ids(), tensors, a=2),
        ]
        assert len({key, *others}) == 5


class TestSimilarity:
    def test_is_the_cosine_of_outputs_on_the_teachers_stream(self) -> None:
        teacher = tiny_teacher("llama", True)
        block = Block(1, 4, 2)
        stands = [(block, teacher.model.layers[2])]
        found = similarities(LayerRunner(teacher, ROW_LENGTH), stands, ids())[0]
        alone = assemble(
            teacher,
            initial_student(
                teacher,
                BlockMap.from_layers([[0], [1, 2, 3], [4], [5]], [0, 2, 4, 5]),
                FULL,
                RANK,
                False,
            ),
            replaced([block], LAYERS),
        )
        with torch.no_grad():
            states = teacher(ids(), output_hidden_states=True).hidden_states
            out = alone(ids(), output_hidden_states=True).hidden_states[2]  # after layers 0 and 2
        expected = torch.cosine_similarity(out, states[4], dim=-1).mean()
        assert found == pytest.approx(float(expected), abs=1e-5)
        assert found < 0.99

    def test_a_layer_stands_for_itself(self) -> None:
        teacher = tiny_teacher("llama", True)
        stands = [(Block(n, n + 1, n), layer) for n, layer in enumerate(teacher.model.layers)]
        found = similarities(LayerRunner(teacher, ROW_LENGTH), stands, ids())
        assert found == pytest.approx([1.0] * LAYERS)


class TestLayout:
    @pytest.fixture
    def teacher(self) -> LayerRunner:
        return LayerRunner(tiny_teacher("llama", True), ROW_LENGTH)

    @pytest.fixture
    def oracle(self, teacher: LayerRunner, tmp_path: Path) -> Oracle:
        alone = BlockMap.from_kept_layers(range(LAYERS), LAYERS)
        return Oracle(
            RouteRunner(teacher, None, alone), replaced([], LAYERS), ids(), tmp_path / "kl.json"
        )

    def naive(self, blocks: BlockMap) -> Any:
        teacher = tiny_teacher("llama", True)
        student = initial_student(teacher, blocks, FULL, RANK, False)
        design = FamilyDesign(blocks, Ladder.last_to_first(blocks), FULL)
        return assemble(teacher, student, route_of_set(design, frozenset()))

    def test_damage_is_the_kl_of_one_block_replaced(
        self, teacher: LayerRunner, oracle: Oracle
    ) -> None:
        found = search_layout(teacher, oracle, ids(), LayoutChoice(layers=4, max_block=3))
        assert len(found.block_map) == 4
        assert len(found.damage) == 5 * 2 + 4 * 3
        whole = tiny_teacher("llama", True)
        for block, damage in found.damage.items():
            singles = [[n] for n in range(LAYERS) if n not in block.layers]
            layers = sorted([*singles, list(block.layers)])
            kept = [block.kept if len(run) > 1 else run[0] for run in layers]
            model = self.naive(BlockMap.from_layers(layers, kept))
            assert damage == pytest.approx(plain_kl(whole, model, ids()), rel=1e-4)
        expected = plain_kl(whole, self.naive(found.block_map), ids())
        assert found.kl == pytest.approx(expected, rel=1e-4)
        assert found.total == sum(found.damage[b] for b in found.block_map if len(b) > 1)

    def test_by_cosine_measures_only_the_layout_it_chose(
        self, teacher: LayerRunner, oracle: Oracle
    ) -> None:
        found = search_layout(teacher, oracle, ids(), LayoutChoice(4, 2, by="cosine"))
        assert found.damage == {block: 1 - cosine for block, cosine in found.cosine.items()}
        assert oracle.measured == 1

    def test_a_threshold_forbids_what_lies_below(
        self, teacher: LayerRunner, oracle: Oracle
    ) -> None:
        free = search_layout(teacher, oracle, ids(), LayoutChoice(None, 2, by="cosine"))
        assert len(free.block_map) == 3
        used = min(free.cosine[block] for block in free.block_map)
        choice = LayoutChoice(None, 2, threshold=used + 1e-6)
        bound = search_layout(teacher, oracle, ids(), choice)
        assert set(bound.damage) == {b for b, c in bound.cosine.items() if c > used + 1e-6}
        assert all(bound.cosine[b] > used for b in bound.block_map if len(b) > 1)
        with pytest.raises(BlockMapError, match="6 would do"):
            search_layout(teacher, oracle, ids(), LayoutChoice(5, 2, threshold=1.0))

    def test_an_odd_choice_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="by must be one of kl, cosine"):
            LayoutChoice(4, 2, by="size")
        with pytest.raises(SettingsError, match="threshold is a cosine, from -1 to 1, got 2"):
            LayoutChoice(None, 2, threshold=2)
        with pytest.raises(SettingsError, match="max_block"):
            LayoutChoice(4, 1)
