"""Similarity of hidden states against plain transformers; and a text measured row by row."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.assemble import assemble
from boomerang_core.errors import DataError
from boomerang_core.evaluate import parts
from boomerang_core.evaluate.ladder import Measured, evaluate_design
from boomerang_core.evaluate.parts import Parts, joined
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.evaluate.similarity import measure_similarity
from boomerang_core.family import Family, family_source, load_family
from boomerang_core.report.files import read_similarity
from boomerang_core.route import FamilyDesign, StudentKind, build_route
from boomerang_core.route_runner import RouteRunner
from boomerang_core.sizes import Quality
from boomerang_core.student import Student
from boomerang_core.text.evaluation import Sample
from tests.core.conftest import (
    BLOCKS,
    LAYERS,
    ROW_LENGTH,
    VOCABULARY,
    tiny_design,
    tiny_student,
    tiny_teacher,
    write_tiny_family,
)

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
SIZES = 3
# of every size, how many of its layers lie before the end of each block of BLOCKS
ENDS = [[1, 2, 3, 4], [1, 2, 3, 5], [2, 3, 4, 6]]


def ids(rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(4, VOCABULARY, (rows, ROW_LENGTH), generator=generator)


def plain_states(model: Any, ids_RL: torch.Tensor) -> list[torch.Tensor]:
    """What a transformers model says its hidden states are, the last one before the final norm."""
    kept: list[torch.Tensor] = []
    norm = model.get_submodule(
        "transformer.ln_f" if hasattr(model, "transformer") else "model.norm"
    )
    handle = norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        states = model(ids_RL, output_hidden_states=True).hidden_states
    handle.remove()
    return [*states[:-1], *kept]


def plain_cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The mean over tokens, by the definition."""
    dots = (ours * theirs).sum(-1)
    return float((dots / (ours.norm(dim=-1) * theirs.norm(dim=-1))).mean())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(("kind", "own"), [(LOWRANK, False), (FULL, False), (FULL, True)])
def test_cosines_are_those_of_whole_models(name: str, kind: StudentKind, own: bool) -> None:
    teacher = tiny_teacher(name, tied=True)
    student, design = tiny_student(teacher, kind, own), tiny_design(kind, own)
    runner = RouteRunner.of(teacher, student, design, ROW_LENGTH)
    found = measure_similarity(runner, design, ids(), None)
    models = [assemble(teacher, student, build_route(design, size)) for size in range(SIZES)]
    states = [plain_states(model, ids()) for model in models]
    theirs = plain_states(teacher, ids())
    assert found.n == 2 * ROW_LENGTH
    for size, ends in enumerate(ENDS):
        expected = [
            plain_cosine(states[size][end], theirs[block.stop])
            for end, block in zip(ends, BLOCKS, strict=True)
        ]
        assert found.sizes[size] == pytest.approx(expected, abs=1e-4)
    assert found.sizes[-1] == [1.0] * len(BLOCKS)
    for end, row in zip(ENDS[0], found.student, strict=True):
        expected = [plain_cosine(states[0][end], theirs[layer + 1]) for layer in range(LAYERS)]
        assert row == pytest.approx(expected, abs=1e-4)


def test_a_ladder_that_begins_at_the_front_is_exact_where_it_is_patched() -> None:
    teacher = tiny_teacher("llama", tied=True)
    student = tiny_student(teacher, LOWRANK)
    ladder = type(tiny_design(LOWRANK).ladder).first_to_last(BLOCKS)
    design = FamilyDesign(BLOCKS, ladder, LOWRANK)
    runner = RouteRunner.of(teacher, student, design, ROW_LENGTH)
    found = measure_similarity(runner, design, ids(), None)
    assert [[value == 1.0 for value in row] for row in found.sizes] == [
        [False] * 4,
        [True, True, False, False],  # the shared layer too: it reads what the teacher's reads
        [True] * 4,
    ]


class Bench:
    """A tiny family on disk, and a text for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.teacher = tiny_teacher("llama", tied=True)
        self.student: Student = tiny_student(self.teacher, LOWRANK)
        self.design = tiny_design(LOWRANK)
        self.family: Family = write_tiny_family(
            folder / "family", self.teacher, self.student, self.design
        )
        self.text = folder / "text.txt"
        self.text.write_text(" ".join(f"w{i}" for i in ids(8).flatten().tolist()))

    def measure(self, **settings: Any) -> Measured:
        """Through files of the folder `parts`."""
        kept = Parts(self.folder / "parts", {"text": "x", **settings})
        return evaluate_design(self.teacher, self.student, self.design, ids(5), kept)

    def evaluate(self, *options: str) -> Any:
        sample = ["--tokens", "150", "--row-length", str(ROW_LENGTH), "--device", "cpu"]
        command = ["evaluate", str(self.family.root), "--text", str(self.text), *sample, *options]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        return result


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def close(ours: Measured, theirs: Measured) -> bool:
    pairs = zip((*ours.family, *ours.naive), (*theirs.family, *theirs.naive), strict=True)
    return all(vars(a) == pytest.approx(vars(b), rel=1e-9, abs=1e-12) for a, b in pairs)


def test_parts_of_a_text_are_its_quality() -> None:
    whole = Quality(kl=0.5, top1=0.25, perplexity=8.0, n=400)
    first, second = Quality(0.2, 0.5, 2.0, 100), Quality(0.6, 1 / 6, 2.0 ** (11 / 3), 300)
    assert vars(joined([first, second])) == pytest.approx(vars(whole))


def test_row_by_row_is_as_good_as_at_once(bench: Bench) -> None:
    at_once = evaluate_design(bench.teacher, bench.student, bench.design, ids(5))
    assert close(bench.measure(), at_once)
    assert at_once.family[0].n == 5 * (ROW_LENGTH - 1)


def test_a_stopped_evaluation_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def stop(*args: Any) -> list[Quality]:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate_routes(*args)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "evaluate_routes", stop)
        with pytest.raises(KeyboardInterrupt):
            bench.measure()
        measured = bench.measure()
        assert len(calls) == 4 + (5 - 3) + 5  # the rest of the sizes' rows, then naive pruning's
        assert close(measured, bench.measure())
        assert len(calls) == 11  # nothing was left
        bench.measure(text="another")
        assert len(calls) == 21
    assert close(measured, evaluate_design(bench.teacher, bench.student, bench.design, ids(5)))


def test_the_command_prints_the_same_with_and_without_a_folder(bench: Bench) -> None:
    plain = bench.evaluate()
    kept = bench.evaluate("--out", str(bench.folder / "out"))
    assert kept.stdout == plain.stdout
    assert [line.split()[1] for line in plain.stdout.splitlines()[1:-1]] == ["4", "5", "6"]
    names = sorted(path.name for path in (bench.folder / "out" / "text").iterdir())
    assert names == ["naive-pruning.json", "sizes.json"]
    assert not (bench.family.root / "report").exists()


def test_the_command_saves_what_the_report_reads(bench: Bench) -> None:
    bench.evaluate("--save", "--out", str(bench.folder / "out"))
    bench.evaluate("--save", "--out", str(bench.folder / "out"))  # over what is there
    saved = load_family(bench.family.root)
    assert saved.rows[0].quality is not None
    path = saved.root / "report" / "similarity.json"
    similarity = read_similarity(path, family_source(saved))
    assert list(similarity.sizes) == [row.id for row in saved.rows]
    assert [list(block) for block in similarity.blocks] == [list(b.layers) for b in BLOCKS]
    runner = RouteRunner.of(bench.teacher, bench.student, bench.design, ROW_LENGTH)
    found = measure_similarity(runner, bench.design, ids(5), None)
    assert similarity.cosine == found.sizes
    assert json.loads(path.read_text())["student"] == found.student


def test_a_text_that_is_not_there_is_named(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"cannot read evaluation text from .*lost"):
        parts.text_parts(bench.family, Sample(bench.folder / "lost", 100, 32), bench.folder)
