"""Scores of compared series on tasks: the file, tables and pictures of the report; no torch."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boomerang_core.compare.comparison import Comparison, Series, read_comparison, write_comparison
from boomerang_core.compare.task_scores import ComparedRow, ComparedTasks
from boomerang_core.errors import FamilyError
from boomerang_core.evaluate.items import TaskRow
from boomerang_core.evaluate.pairs import Estimate
from boomerang_core.family import Family, family_source
from boomerang_core.report.findings import GivenFiles
from boomerang_core.report.page import write_report
from tests.unit.comparisons import series
from tests.unit.test_report import Page, family

ACCURACIES = {"naive pruning": [0.25, 0.3, 0.5], "ours": [0.375, 0.25, 0.5]}
NONE = dict.fromkeys(
    (
        "difference",
        "difference_se",
        "log_likelihood_difference",
        "log_likelihood_difference_se",
        "tokens_per_answer",
        "tokens_per_answer_se",
    )
)


def scores(ladder: Series, task: str, n: int = 100) -> Iterator[ComparedRow]:
    """A row for each size; `prose` is plain text."""
    read = task == "prose"
    for point, accuracy in zip(ladder.points, ACCURACIES[ladder.name], strict=True):
        row = TaskRow(
            task=task,
            size=f"{point.layers}L",
            layers=point.layers,
            params=point.params,
            n=n,
            accuracy=None if read else accuracy,
            se=None if read else 0.0443,
            log_likelihood=accuracy - 4,
            log_likelihood_se=0.125,
            perplexity=1000 * accuracy if read else None,
            metrics={} if read else {"acc,none": accuracy},
            **NONE,
        )
        yield ComparedRow(ladder.name, row)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family(tmp_path_factory.mktemp("scored") / "family")


@pytest.fixture(scope="module")
def comparison(tiny: Family) -> Comparison:
    """The tiny family stands last; LaCo has no scores, naive pruning lacks the smallest size."""
    naive = series("naive pruning", "naive", [3.0, 0.1, 0.0])
    ours = series("ours", "family", [0.5, 0.25, 0.0], family_source(tiny))
    rows = [
        row for task in ("quiz/a", "prose") for each in (naive, ours) for row in scores(each, task)
    ]
    tasks = ComparedTasks(
        tuple(row for row in rows if (row.series, row.score.layers) != ("naive pruning", 4)),
        {"tasks": ["quiz/a", "prose"], "lm_eval": "0.4"},
        {"command": "boomerang compare <tasks>", "hardware": "a GPU", "date": "2026-01-03"},
    )
    laco = series("LaCo", "laco", [4.25, 2.0, 0.0])
    return Comparison(
        {"teacher": "the teacher", "text": "other.txt", "n": 99}, (laco, naive, ours), tasks
    )


@pytest.fixture(scope="module")
def file(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "comparison.json"
    write_comparison(comparison, path)
    return path


class TestFile:
    def test_round_trip(self, comparison: Comparison, file: Path) -> None:
        assert read_comparison(file) == comparison

    def test_without_tasks_it_is_as_before(self, comparison: Comparison, tmp_path: Path) -> None:
        write_comparison(replace(comparison, tasks=None), tmp_path / "plain.json")
        assert json.loads((tmp_path / "plain.json").read_text()).keys() == {
            "format",
            "rows",
            "series",
        }
        assert read_comparison(tmp_path / "plain.json").tasks is None

    def test_a_series_measured_again_loses_its_scores(self, comparison: Comparison) -> None:
        once = comparison.with_series(series("ours", "family", [0.4, 0.2, 0.0], {"student": "x"}))
        assert once.tasks is not None
        assert {row.series for row in once.tasks.rows} == {"naive pruning"}
        again = once.with_series(series("naive pruning", "naive", [2.0, 0.1, 0.0], {"seed": 1}))
        assert again.tasks is None

    @pytest.mark.parametrize(
        "break_it",
        [
            lambda tasks: tasks.pop("settings"),
            lambda tasks: tasks.update(rows=[]),
            lambda tasks: tasks.update(rows=[7]),
            lambda tasks: tasks["rows"][0].pop("accuracy"),
            lambda tasks: tasks["rows"][0].update(se=float("nan")),
            lambda tasks: tasks["rows"][0].update(accuracy="high"),
            lambda tasks: tasks["rows"][0].update(n=0),
            lambda tasks: tasks["rows"][0].update(metrics=[1]),
            lambda tasks: tasks["rows"][0].update(series="ShortGPT"),
            lambda tasks: tasks["rows"][0].update(layers=9),
        ],
    )
    def test_malformed_scores_are_one_clear_error(
        self, break_it: Any, file: Path, tmp_path: Path
    ) -> None:
        record = json.loads(file.read_text())
        break_it(record["tasks"])
        path = tmp_path / "broken.json"
        path.write_text(json.dumps(record))
        with pytest.raises(FamilyError, match=r"broken.json is no comparison, or malformed at"):
            read_comparison(path)


@pytest.fixture(scope="module")
def out(tiny: Family, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_report(tiny, folder, GivenFiles(comparison=file))
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "index.html").read_text("utf-8"))


class TestReport:
    def test_a_table_a_task_with_a_row_a_depth_and_a_column_a_series(self, page: Page) -> None:
        cells = [" ".join(row.split()) for row in page.texts["tr"]]
        start = cells.index("layers ours naive pruning")  # this family's series first
        assert cells[start + 1 :] == [
            "4 0.38 ± 0.04",
            "5 0.25 ± 0.04 0.30 ± 0.04",
            "6 0.50 ± 0.04 0.50 ± 0.04",
            "layers ours naive pruning",
            "4 375.0",
            "5 250.0 300.0",
            "6 500.0 500.0",
        ]
        assert page.texts["h3"][:2] == [
            "quiz/a: accuracy ± standard error",
            "prose: perplexity a word",
        ]
        assert page.texts["caption"][-1].strip() == "n = 100 items, the same for all."
        assert "boomerang compare <tasks>" in "".join(page.texts["dd"])

    def test_a_picture_for_each_figure_told_in_numbers(self, page: Page, out: Path) -> None:
        told = {str(image["src"]): str(image["alt"]) for image in page.images}
        compared = {name: alt for name, alt in told.items() if name.startswith("compared-")}
        assert list(compared) == [
            "compared-quiz-a-accuracy.png",
            "compared-quiz-a-log-likelihood.png",
            "compared-prose-log-likelihood.png",
        ]
        for name in compared:
            assert (out / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert compared["compared-quiz-a-accuracy.png"] == (
            "quiz/a: accuracy goes from 0.38 ± 0.04 at 4 layers to 0.50 ± 0.04 at 6, the teacher, "
            "in ours; naive pruning starts at 0.30 ± 0.04 and is lower at 0 of the 1 sizes below "
            "the teacher."
        )
        likelihood = compared["compared-prose-log-likelihood.png"]
        assert "log likelihood of a word, nats goes from -3.62 ± 0.12 at 4 layers" in likelihood

    def test_the_same_comparison_gives_the_same_bytes(
        self, tiny: Family, file: Path, out: Path, tmp_path: Path
    ) -> None:
        write_report(tiny, tmp_path, GivenFiles(comparison=file))
        name = "compared-quiz-a-accuracy.png"
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()

    def test_other_errors_give_another_picture(
        self, tiny: Family, file: Path, out: Path, tmp_path: Path
    ) -> None:
        record = json.loads(file.read_text())
        for row in record["tasks"]["rows"]:
            row["se"] = row["se"] and 0.1
        (tmp_path / "other.json").write_text(json.dumps(record))
        write_report(tiny, tmp_path / "out", GivenFiles(comparison=tmp_path / "other.json"))
        name = "compared-quiz-a-accuracy.png"
        assert (tmp_path / "out" / name).read_bytes() != (out / name).read_bytes()


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.2849, 0.0451, 100), "0.28 ± 0.05"),
        (Estimate(0.2849, 0.0045, 10_042), "0.285 ± 0.004"),
        (Estimate(1.0, None, 1), "1.00"),
    ],
)
def test_an_estimate_in_words(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text
