"""Comparisons: the file, its table in the command, its place in a report; no torch."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.errors import FamilyError, SettingsError
from boomerang_core.evaluate.charts.canvas import spread
from boomerang_core.evaluate.comparison import (
    Comparison,
    Point,
    Series,
    family_source,
    read_comparison,
    write_comparison,
)
from boomerang_core.evaluate.findings import Sources, read_findings
from boomerang_core.evaluate.report import write_report
from boomerang_core.family import Family
from boomerang_core.sizes import Quality
from tests.imports import heavy_after
from tests.unit.test_report import DESIGN, NAIVE, Page, family

NOTE = {"command": "boomerang compare <tiny>", "hardware": "a machine", "date": "2026-01-02"}
CURVES = [
    {
        "name": name,
        "points": [{"seconds": s, "tokens": 10 * s, "kl": scale / s} for s in (1, 10, 100)],
    }
    for name, scale in (("blockwise", 3.0), ("end to end", 5.0))
]
SOURCE = {  # of the family of `test_report.py`
    "family": "tiny<&>",
    "student": hashlib.sha256(b"tensors").hexdigest(),
    "blocks": DESIGN.block_map.to_json(),
    "ladder": DESIGN.ladder.to_json(),
}
SIMILARITY = {
    "source": SOURCE,
    "sizes": ["39m", "48m", "58m"],
    "blocks": [[0], [1, 2], [3, 4], [5]],
    "cosine": [[1.0, 0.9, 0.7, 0.8], [1.0, 0.9, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0]],
    "student": [
        [1.0, 0.5, 0.4, 0.3, 0.2, 0.1],
        [0.4, 0.8, 0.9, 0.3, 0.2, 0.1],
        [0.1, 0.2, 0.3, 0.8, 0.7, 0.4],  # nearer to the block's first layer than to its last
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    ],
    "n": 77,
    "provenance": {"text": "third.txt"},
}


def score(task: str, size: str, params: int, **figures: float | None) -> dict[str, Any]:
    """A row of `tasks.json`."""
    names = ("accuracy", "se", "log_likelihood", "log_likelihood_se", "perplexity")
    none = dict.fromkeys((*names, "tokens_per_answer", "tokens_per_answer_se"))
    return {"task": task, "size": size, "params": params, "n": 50, **none, **figures}


TASKS = {
    "source": SOURCE,
    "settings": {"lm_eval": "0.4"},
    "provenance": {"command": "boomerang evaluate <tasks>"},
    "rows": [
        score("quiz", "39m", 39_168_032, accuracy=0.25, se=0.06, log_likelihood=-1.5),
        score("quiz", "58m", 57_728_032, accuracy=0.5, se=None, log_likelihood=-1.25),
        score("prose", "39m", 39_168_032, log_likelihood=-3.5, perplexity=33.12),
        score("prose", "58m", 57_728_032, log_likelihood=-3.0, perplexity=20.09),
    ],
}
SPEED = {"load": "one request", "tokens_per_second": {"39m": 30.5, "58m": 20.0}}


def series(name: str, kind: str, kls: list[float], source: dict[str, Any] | None = None) -> Series:
    """A ladder of 4, 5 and 6 layers."""
    points = tuple(
        Point(layers, layers * 10**7, Quality(kl, 0.5, 20 + kl, 99))
        for layers, kl in zip((4, 5, 6), kls, strict=True)
    )
    return Series(name, kind, source or {}, points, NOTE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family(tmp_path_factory.mktemp("compared") / "family")


@pytest.fixture(scope="module")
def comparison(tiny: Family) -> Comparison:
    """The tiny family stands last, to be found by what it is made of."""
    naive = series("naive pruning", "naive", [3.0, 0.1, 0.0])
    return Comparison(
        {"teacher": "the teacher", "text": "other.txt", "n": 99},
        (
            series("LaCo", "laco", [4.25, 2.0, 0.0]),
            replace(naive, points=naive.points[1:]),  # it lacks the smallest size
            series("ours", "family", [0.5, 0.25, 0.0], family_source(tiny)),
        ),
    )


@pytest.fixture(scope="module")
def sources(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("files")
    write_comparison(comparison, folder / "comparison.json")
    values = {"curves": CURVES, "tasks": TASKS, "similarity": SIMILARITY, "speed": SPEED}
    for name, value in values.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Sources(**{name: folder / f"{name}.json" for name in ("comparison", *values)})


class TestFile:
    def test_round_trip(self, comparison: Comparison, sources: Sources) -> None:
        assert sources.comparison is not None
        assert read_comparison(sources.comparison) == comparison

    def test_a_finished_series_is_known_by_its_source(self, comparison: Comparison) -> None:
        assert comparison.finished("LaCo", "laco", {})
        assert not comparison.finished("LaCo", "laco", {"seed": 1})
        assert not comparison.finished("ShortGPT", "shortgpt", {})

    def test_a_series_measured_again_takes_the_place_of_the_old(
        self, comparison: Comparison
    ) -> None:
        again = comparison.with_series(series("LaCo", "laco", [1.0, 0.5, 0.0], {"seed": 1}))
        assert sorted(s.name for s in again.series) == ["LaCo", "naive pruning", "ours"]
        assert again.finished("LaCo", "laco", {"seed": 1})

    @pytest.mark.parametrize(
        "break_it",
        [
            lambda record: record.update(format=2),
            lambda record: record.pop("rows"),
            lambda record: record["rows"].pop("n"),
            lambda record: record["series"].append(record["series"][0]),
            lambda record: record["series"][0].update(kind="wanda"),
            lambda record: record["series"][0].update(points=[]),
            lambda record: record["series"][0]["points"].reverse(),
            lambda record: record["series"][0]["points"][0].pop("kl"),
            lambda record: record["series"][0]["points"][0].update(kl=float("nan")),
            lambda record: record["series"][0]["points"][0].update(params="many"),
        ],
    )
    def test_a_malformed_file_is_one_clear_error(
        self, break_it: Any, sources: Sources, tmp_path: Path
    ) -> None:
        assert sources.comparison is not None
        record = json.loads(sources.comparison.read_text())
        break_it(record)
        path = tmp_path / "broken.json"
        path.write_text(json.dumps(record))
        with pytest.raises(FamilyError, match=r"broken.json is no comparison, or malformed at"):
            read_comparison(path)

    @pytest.mark.parametrize("text", ["[]", "{", "null"])
    def test_other_json_is_one_clear_error(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(FamilyError, match=r"other.json is no comparison"):
            read_comparison(tmp_path / "other.json")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FamilyError, match=r"cannot read the comparison .*missing.json"):
            read_comparison(tmp_path / "missing.json")


@pytest.fixture(scope="module")
def out(tiny: Family, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
            write_report(tiny, tmp_path / "out", Sources(**{name: path}))

    def test_without_a_comparison_naive_pruning_is_the_other_series(self, tiny: Family) -> None:
        ours, naive = read_findings(tiny, Sources()).series
        assert [point.quality.kl for point in naive.points] == [row["kl"] for row in NAIVE]
        assert [point.params for point in naive.points] == [row.params for row in tiny.rows]
        assert [point.layers for point in ours.points] == [4, 5, 6]

    def test_a_comparison_of_another_student_is_refused(
        self, comparison: Comparison, tiny: Family, tmp_path: Path
    ) -> None:
        other = replace(comparison, series=comparison.series[:2])
        write_comparison(other, tmp_path / "other.json")
        with pytest.raises(FamilyError, match=r"does not compare tiny<&> as it is now"):
            write_report(tiny, tmp_path / "out", Sources(tmp_path / "other.json"))
        assert not (tmp_path / "out").exists()

    def test_more_ladders_than_a_picture_can_tell_apart_are_refused(
        self, comparison: Comparison, tiny: Family, tmp_path: Path
    ) -> None:
        many = comparison
        for number in range(5):
            many = many.with_series(series(f"run {number}", "family", [1.0, 0.5, 0.0]))
        write_comparison(many, tmp_path / "many.json")
        with pytest.raises(SettingsError, match=r"quality.png can show 7 .* at most, not 8"):
            write_report(tiny, tmp_path / "out", Sources(tmp_path / "many.json"))

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
            write_report(tiny, tmp_path / "out", Sources(**{name: path}))
        assert str(path) in str(caught.value)


def test_places_are_as_near_as_the_gap_allows() -> None:
    assert spread([10, 50, 90], 15, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([55, 45, 50], 10, 0, 100) == [60, 40, 50]
    assert spread([1, 2], 10, 0, 100) == [0, 10]
    assert spread([99, 98], 10, 0, 100) == [100, 90]


def test_reading_a_comparison_loads_nothing_heavy() -> None:
    assert heavy_after("import boomerang_core.evaluate.comparison") == []
