"""Means, paired differences, rows of a table of tasks, and results that are kept; no torch."""

import json
import math
import random
import statistics
from dataclasses import astuple
from pathlib import Path

import pytest

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import DataError, SettingsError, UnknownSizeError
from boomerang_core.evaluate.answers import read_answers
from boomerang_core.evaluate.items import Item, TaskRow, task_row
from boomerang_core.evaluate.pairs import difference, estimate
from boomerang_core.evaluate.tasks import GROUPS, TaskSettings, named_sizes, named_tasks
from boomerang_core.family import Family, build_rows
from boomerang_core.finished import read_finished, write_finished
from boomerang_core.footprint import ModelShape
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.sizes import SizeRow
from boomerang_core.teacher_ref import TeacherRef
from tests.imports import heavy_after

SIZE = SizeRow(0, "93m", 17, 93_000_000, 186_000_000, 1000, offered=True)
TEACHER = SizeRow(1, "135m", 30, 135_000_000, 270_000_000, 2000, offered=True)


def draw(seed: int, count: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, 10) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_a_mean_has_the_usual_standard_error(count: int) -> None:
    values = draw(0, count)
    found = estimate(values)
    assert found.n == count
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.se == pytest.approx(statistics.stdev(values) / math.sqrt(count))


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_the_error_of_a_difference_counts_what_is_common(count: int) -> None:
    """Var(x - y) = Var(x) + Var(y) - 2 Cov(x, y), from the two lists apart."""
    theirs = draw(1, count)
    ours = [y + 0.1 * x for x, y in zip(draw(2, count), theirs, strict=True)]
    found = difference(ours, theirs)
    shared = statistics.covariance(ours, theirs)
    variance = statistics.variance(ours) + statistics.variance(theirs) - 2 * shared
    assert found.mean == pytest.approx(statistics.fmean(ours) - statistics.fmean(theirs))
    assert found.se == pytest.approx(math.sqrt(variance / count))


def test_items_that_agree_leave_only_those_that_differ() -> None:
    """A size loses 4 items of 100 that the teacher has: the error is that of 4, not of 60."""
    theirs = [1.0] * 60 + [0.0] * 40
    ours = [0.0] * 4 + theirs[4:]
    found = difference(ours, theirs)
    assert (found.mean, found.n) == (pytest.approx(-0.04), 100)
    assert found.se == pytest.approx(math.sqrt(0.04 * 0.96 / 99))
    assert estimate(ours).se == pytest.approx(math.sqrt(0.56 * 0.44 / 99))


def test_weights_are_of_a_ratio_of_sums() -> None:
    values, weights = [-1.0, -2.0, -4.0], [10.0, 30.0, 20.0]
    found = estimate(values, weights)
    mean = (-10 - 60 - 80) / 60
    assert found.mean == pytest.approx(mean)
    residuals = [w * (x - mean) for x, w in zip(values, weights, strict=True)]
    assert sum(residuals) == pytest.approx(0)
    assert found.se == pytest.approx(statistics.stdev(residuals) * math.sqrt(3) / 60)
    assert astuple(estimate(values, [7, 7, 7])) == pytest.approx(astuple(estimate(values)))


def test_one_item_has_no_error_and_none_no_mean() -> None:
    assert estimate([3.0]).se is None
    with pytest.raises(ValueError, match="no values"):
        estimate([])
    with pytest.raises(ValueError, match="zip"):
        difference([1.0, 2.0], [1.0])


def answers(accuracies: list[float], nats: list[float]) -> list[Item]:
    return [
        Item("t", i, f"hash {i}", accuracy, {"acc,none": accuracy, "acc_norm,none": 1.0}, ll)
        for i, (accuracy, ll) in enumerate(zip(accuracies, nats, strict=True))
    ]


def test_a_row_compares_with_the_teacher_item_by_item() -> None:
    teacher = answers([1, 1, 0, 1], [-1.0, -2.0, -3.0, -4.0])
    ours = answers([1, 0, 0, 1], [-1.5, -2.0, -4.5, -4.0])
    row = task_row("t", SIZE, ours, teacher)
    assert (row.task, row.size, row.layers, row.params, row.n) == ("t", "93m", 17, 93_000_000, 4)
    assert (row.accuracy, row.difference) == (0.5, -0.25)
    assert row.se == pytest.approx(math.sqrt(1 / 3 / 4), abs=1e-5)
    assert row.difference_se == pytest.approx(0.25)
    assert (row.log_likelihood, row.log_likelihood_difference) == (-3.0, -0.5)
    gap = statistics.stdev([-0.5, 0, -1.5, 0]) / 2
    assert row.log_likelihood_difference_se == pytest.approx(gap, abs=1e-5)
    assert row.metrics == {"acc,none": 0.5, "acc_norm,none": 1.0}
    assert (row.perplexity, row.tokens_per_answer) == (None, None)
    itself = task_row("t", TEACHER, teacher, teacher)
    assert (itself.accuracy, itself.difference, itself.difference_se) == (0.75, None, None)
    assert itself.log_likelihood_difference is None


def test_a_row_of_generated_answers_counts_their_tokens() -> None:
    items = [
        Item("t", i, "", 0.0, {}, tokens=tokens, answer="x") for i, tokens in enumerate((5, 9))
    ]
    row = task_row("t", SIZE, items, items)
    assert (row.tokens_per_answer, row.tokens_per_answer_se) == (7.0, 2.0)
    assert (row.log_likelihood, row.perplexity) == (None, None)


def test_a_row_of_plain_text_has_a_perplexity_a_word() -> None:
    teacher = [
        Item("t", 0, "", log_likelihood=-2.0, words=30),
        Item("t", 1, "", None, {}, -3.0, 10),
    ]
    ours = [Item("t", 0, "", log_likelihood=-2.5, words=30), Item("t", 1, "", None, {}, -3.0, 10)]
    row = task_row("t", SIZE, ours, teacher)
    assert row.perplexity == pytest.approx(math.exp((2.5 * 30 + 3 * 10) / 40), rel=1e-5)
    assert row.log_likelihood_difference == pytest.approx(-0.5 * 30 / 40)
    assert (row.accuracy, row.se) == (None, None)


@pytest.mark.parametrize("changed", [{"id": 7}, {"prompt": "another"}, {"task": "u"}])
def test_other_items_are_not_compared(changed: dict[str, object]) -> None:
    teacher = answers([1, 0], [-1.0, -2.0])
    other = [teacher[0], Item(**{**vars(teacher[1]), **changed})]
    with pytest.raises(DataError, match="93m answered other items"):
        task_row("t", SIZE, other, teacher)
    with pytest.raises(DataError, match="93m answered other items"):
        task_row("t", SIZE, teacher[:1], teacher)


def test_a_row_goes_through_json() -> None:
    teacher = answers([1, 0, 1], [-1.0, -2.0, -3.0])
    row = task_row("t", SIZE, answers([0, 0, 1], [-1.0, -2.0, -3.0]), teacher)
    assert TaskRow(**json.loads(json.dumps(vars(row)))) == row


def test_a_result_counts_for_its_own_settings(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    assert read_finished(path, {"limit": 4}) is None
    write_finished(path, {"limit": 4, "tasks": ("a", "b")}, [1, 2])
    assert read_finished(path, {"tasks": ("a", "b"), "limit": 4}) == [1, 2]
    assert read_finished(path, {"tasks": ("a",), "limit": 4}) is None
    assert read_finished(path, {}) is None


@pytest.mark.parametrize("text", ["", "[]", '{"settings": {}}', "{"])
def test_a_file_that_is_no_result_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"result\.json is no finished result"):
        read_finished(path, {})


def test_groups_are_written_out_and_names_kept_once() -> None:
    assert named_tasks(" piqa, paper ,rte") == (
        "piqa",
        *(t for t in GROUPS["paper"] if t != "piqa"),
    )
    assert len(GROUPS["paper"]) == 10
    with pytest.raises(SettingsError, match="at least one task"):
        TaskSettings(named_tasks(" , "))
    with pytest.raises(SettingsError, match="dtype must be one of"):
        TaskSettings(("piqa",), dtype="int8")


def test_sizes_are_smallest_first_with_the_teacher() -> None:
    blocks = BlockMap.from_layers([[0], [1, 2], [3, 4], [5]], shared=(0, 5))
    design = FamilyDesign(blocks, Ladder.last_to_first(blocks), StudentKind.LOWRANK)
    shape = ModelShape(6, 32, 2, 8, 9_280_000, 2_048_000, 2_048_000, 32, tied=True)
    rows = build_rows(design, shape, offered=frozenset({0, 2}))
    teacher = TeacherRef("folder", "teacher")
    family = Family("tiny", "LlamaForCausalLM", design, shape, teacher, rows, 1, 64, 2)

    def layers(text: str) -> list[int]:
        return [row.layers for row in named_sizes(family, text)]

    assert layers("offered") == [4, 6]
    assert layers("all") == [4, 5, 6]
    assert layers("teacher,5L") == [5, 6]
    assert layers("student") == [4, 6]
    with pytest.raises(UnknownSizeError, match="no size has 9 layers"):
        layers("9L")


def test_what_a_report_reads_loads_no_torch() -> None:
    assert heavy_after("import boomerang_core.evaluate.tasks") == []


@pytest.mark.parametrize("result", [5, [5], [{"task": "t", "id": 0, "prompt": "", "mood": 1}]])
def test_answers_of_another_form_are_refused(result: object, tmp_path: Path) -> None:
    write_finished(tmp_path / "answers.json", {"seed": 1}, result)
    with pytest.raises(DataError, match=r"answers\.json holds no answers; delete it"):
        read_answers(tmp_path / "answers.json", {"seed": 1})
