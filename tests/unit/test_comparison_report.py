"""A report of every optional file: its pictures, its tables, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.compare.comparison import Comparison, write_comparison
from boomerang_core.errors import FamilyError, SettingsError
from boomerang_core.family import Family
from boomerang_core.report.charts.canvas import spread
from boomerang_core.report.findings import GivenFiles, read_findings
from boomerang_core.report.page import write_report
from tests.unit.comparisons import (
    SIMILARITY,
    SOURCE,
    TASKS,
    comparison,
    score,
    series,
    sources,
    tiny,
)
from tests.unit.test_report import NAIVE, Page, family

__all__ = ["comparison", "sources", "tiny"]  # fixtures


@pytest.fixture(scope="module")
def out(tiny: Family, sources: GivenFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote, with every optional file."""
    folder = tmp_path_factory.mktemp("written")
    arguments = ["report", str(tiny.root), "--out", str(folder)]
    for name in ("comparison", "curves", "tasks", "similarity", "speed"):
        arguments += [f"--{name}", str(getattr(sources, name))]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "index.html").read_text("utf-8"))


class TestReport:
    def test_every_file_has_its_picture(self, page: Page, out: Path) -> None:
        names = [str(image["src"]) for image in page.images]
        assert names == [
            "quality.png",
            "perplexity.png",
            "speed.png",
            "similarity.png",
            "student-layers.png",
            "curves.png",
            "training.png",
            "tasks.png",
            "log-likelihood.png",  # no task here generates answers
        ]
        assert sorted(path.name for path in out.iterdir()) == sorted([*names, "index.html"])

    def test_the_pictures_are_told_in_numbers(self, page: Page) -> None:
        quality, perplexity, speed, similarity, student, curves, _, accuracy, likelihood = (
            str(image["alt"]) for image in page.images
        )
        assert "from 0.500 nats per token at 39m to 0.000 at 58m" in quality
        assert "LaCo starts at 4.250 and is worse at 2 of the 2 sizes below" in quality
        assert "naive pruning starts at 0.100 and is worse at 0 of the 1 sizes below" in quality
        assert "from 20.5 at a footprint of" in perplexity
        assert "slowest, 58m, has 20.0 tokens per second and a KL to the teacher of 0.000" in speed
        assert "the fastest, 39m, 30.5 and 0.500" in speed
        assert "the lowest of 39m is 0.700, after layers 3–4" in similarity
        assert "at the same place in 3 of 4 blocks" in student
        assert "blockwise: 0.030 after 100 s and 1,000 tokens" in curves
        assert accuracy.endswith("teacher: quiz from 0.250 to 0.500.")
        assert likelihood.endswith("quiz from -1.50 to -1.25; prose from -3.50 to -3.00.")

    def test_the_table_has_a_row_for_every_depth_and_a_column_a_series(self, page: Page) -> None:
        cells = [row.split() for row in page.texts["tr"]]
        start = cells.index(["layers", "ours", "LaCo", "naive", "pruning"])
        assert cells[start + 1 : start + 4] == [
            ["4", "0.500", "4.250"],  # naive pruning has no size of four layers
            ["5", "0.250", "2.000", "0.100"],
            ["6", "0.000", "0.000", "0.000"],
        ]
        assert "n = 99 tokens of other.txt" in " ".join(page.texts["caption"][1].split())

    def test_the_table_of_tasks_has_a_row_a_size_and_a_column_a_task(self, page: Page) -> None:
        cells = [row.split() for row in page.texts["tr"]]
        start = cells.index(["size", "quiz", "prose"])
        assert cells[start + 1 :] == [
            ["39m", "0.250", "±", "0.060", "33.1"],
            ["58m", "0.500", "20.1"],
        ]

    def test_the_familys_own_files_are_found(self, tmp_path: Path) -> None:
        tiny = family(tmp_path / "family")
        (tiny.root / "report" / "similarity.json").write_text(json.dumps(SIMILARITY))
        (tiny.root / "report" / "tasks.json").write_text(json.dumps(TASKS))
        page = Page(write_report(tiny, tmp_path / "out").read_text("utf-8"))
        names = [image["src"] for image in page.images]
        assert {"similarity.png", "tasks.png"} < set(names)

    @pytest.mark.parametrize(("name", "value"), [("tasks", TASKS), ("similarity", SIMILARITY)])
    @pytest.mark.parametrize("change", [{"ladder": [[0, 1], [2, 3]]}, {"student": "0" * 64}, None])
    def test_sizes_of_another_ladder_or_student_are_refused(
        self, name: str, value: Any, change: Any, tiny: Family, tmp_path: Path
    ) -> None:
        """They may go by the same names, and have as many parameters."""
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**value, "source": change and {**SOURCE, **change}}))
        with pytest.raises(FamilyError, match=rf"{name}.json does not measure tiny<&> as it is"):
            write_report(tiny, tmp_path / "out", GivenFiles(**{name: path}))

    def test_without_a_comparison_naive_pruning_is_the_other_series(self, tiny: Family) -> None:
        ours, naive = read_findings(tiny, GivenFiles()).series
        assert [point.quality.kl for point in naive.points] == [row["kl"] for row in NAIVE]
        assert [point.params for point in naive.points] == [row.params for row in tiny.rows]
        assert [point.layers for point in ours.points] == [4, 5, 6]

    def test_a_comparison_of_another_student_is_refused(
        self, comparison: Comparison, tiny: Family, tmp_path: Path
    ) -> None:
        other = replace(comparison, series=comparison.series[:2])
        write_comparison(other, tmp_path / "other.json")
        with pytest.raises(FamilyError, match=r"does not compare tiny<&> as it is now"):
            write_report(tiny, tmp_path / "out", GivenFiles(tmp_path / "other.json"))
        assert not (tmp_path / "out").exists()

    def test_more_ladders_than_a_picture_can_tell_apart_are_refused(
        self, comparison: Comparison, tiny: Family, tmp_path: Path
    ) -> None:
        many = comparison
        for number in range(5):
            many = many.with_series(series(f"run {number}", "family", [1.0, 0.5, 0.0]))
        write_comparison(many, tmp_path / "many.json")
        with pytest.raises(SettingsError, match=r"quality.png can show 7 .* at most, not 8"):
            write_report(tiny, tmp_path / "out", GivenFiles(tmp_path / "many.json"))

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("curves", [], "no curve"),
            ("curves", [{"name": "x", "points": []}], "must be above 0 and rise"),
            ("curves", [{"points": []}], "malformed at KeyError"),
            (
                "curves",
                [{"name": "x", "points": [{"seconds": 0, "tokens": 0, "kl": 1}]}],
                "must be above 0",
            ),
            ("similarity", {**SIMILARITY, "sizes": ["39m"]}, "cosine must be 1 rows of 4"),
            ("similarity", {**SIMILARITY, "blocks": [[0]]}, "cosine must be 3 rows of 1"),
            ("similarity", {**SIMILARITY, "cosine": [[2.0] * 4] * 3}, "no cosine"),
            ("similarity", {**SIMILARITY, "student": [[1.0]]}, "student must be 4 rows of 6"),
            ("similarity", {**SIMILARITY, "blocks": []}, "there must be sizes, and blocks"),
            ("similarity", [], "malformed"),
            ("tasks", {**TASKS, "rows": []}, "no rows"),
            ("tasks", {**TASKS, "rows": [score("quiz", "1b", 1)]}, "has no 1b of 1 parameters"),
            ("tasks", {**TASKS, "rows": [{"task": "quiz"}]}, "malformed at KeyError"),
            ("speed", {"load": "x", "tokens_per_second": {"1b": 3}}, "there is no size 1b"),
            ("speed", {"load": "x", "tokens_per_second": {}}, "must be above 0"),
        ],
    )
    def test_a_malformed_file_is_one_clear_error(
        self, name: str, value: Any, reason: str, tiny: Family, tmp_path: Path
    ) -> None:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value))
        with pytest.raises(FamilyError, match=reason) as caught:
            write_report(tiny, tmp_path / "out", GivenFiles(**{name: path}))
        assert str(path) in str(caught.value)


def test_places_are_as_near_as_the_gap_allows() -> None:
    assert spread([10, 50, 90], 15, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([55, 45, 50], 10, 0, 100) == [60, 40, 50]
    assert spread([1, 2], 10, 0, 100) == [0, 10]
    assert spread([99, 98], 10, 0, 100) == [100, 90]
