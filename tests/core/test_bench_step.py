"""The benchmark of a training step, on a tiny teacher: both ways compute the same thing."""

import json
from pathlib import Path

import pytest

from bench import step as bench
from boomerang_core.errors import TrainingError
from boomerang_core.route import StudentKind
from tests.core.conftest import tiny_teacher, tiny_tokenizer

OPTIONS = ["--pairs", "3", "--tokens", "64", "--row-length", "16", "--rank", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("teacher")
    tiny_teacher("llama", True).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def options(folder: Path) -> bench.Options:
    return bench.Options(str(folder), 3, 64, 16, "fp32", "cpu", None, 4)


def test_the_command_compares_steps(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    given = ["--teacher", str(folder), *OPTIONS, "--kind", "full", "--out", str(out)]
    assert bench.main(given) == 0
    result = json.loads(out.read_text())
    assert str(folder.parent) not in out.read_text()
    record = result["kinds"]["full"]
    assert 0 < record["ratio"]["least"] <= record["ratio"]["median"] <= record["ratio"]["most"]
    assert all(record[side]["tokens_per_second"] > 0 for side in bench.SIDES)
    assert all(record[side]["peak_mib"] > 50 for side in bench.SIDES)


def test_our_recipes_step_runs_beside_the_references(folder: Path) -> None:
    seconds = bench.Bench(options(folder), StudentKind.LOWRANK).seconds(2)
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_both_steps_go_the_same_way(folder: Path) -> None:
    """Not only the first loss: what a step does to the student is the same too."""
    sides = bench.Bench(options(folder), StudentKind.FULL)
    ours, reference = sides.side("ours"), sides.side("reference")
    losses = [(ours.step(step)["loss"], reference.step(step)) for step in range(6)]
    for one, other in losses:
        assert one == pytest.approx(other, rel=1e-4)
    assert reference.step(0) < losses[0][1]


def test_steps_that_differ_are_no_comparison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench.ReferenceStep.step
    monkeypatch.setattr(bench.ReferenceStep, "step", lambda self, step: 1.01 * plain(self, step))
    with pytest.raises(TrainingError, match="in the reference"):
        bench.Bench(options(folder), StudentKind.FULL).seconds(1)
    assert bench.main(["--teacher", str(folder), *OPTIONS, "--kind", "full"]) == 2
