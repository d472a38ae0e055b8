"""The file of a comparison; no torch."""

import json
from pathlib import Path
from typing import Any

import pytest

from boomerang_core.compare.comparison import Comparison, read_comparison
from boomerang_core.errors import FamilyError
from boomerang_core.report.findings import GivenFiles
from tests.imports import heavy_after
from tests.unit.comparisons import comparison, series, sources, tiny

__all__ = ["comparison", "sources", "tiny"]  # fixtures


class TestFile:
    def test_round_trip(self, comparison: Comparison, sources: GivenFiles) -> None:
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
        self, break_it: Any, sources: GivenFiles, tmp_path: Path
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


def test_reading_a_comparison_loads_nothing_heavy() -> None:
    assert heavy_after("import boomerang_core.compare.comparison") == []
