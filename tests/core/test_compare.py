"""Comparisons of tiny families and baselines, on the same rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.compare import run as comparing
from boomerang_core.compare.comparison import Comparison, read_comparison
from boomerang_core.compare.run import (
    SENTENCE_TOKENS,
    SENTENCES,
    Texts,
    compare,
    sentences,
)
from boomerang_core.errors import DataError, FamilyError, SettingsError
from boomerang_core.evaluate.ladder import evaluate_family
from boomerang_core.family import Family
from boomerang_core.route import StudentKind
from boomerang_core.text.evaluation import Sample
from tests.core.conftest import (
    ROW_LENGTH,
    VOCABULARY,
    tiny_design,
    tiny_student,
    tiny_teacher,
    write_tiny_family,
)

CPU = torch.device("cpu")


def words(path: Path, seed: int, count: int = 1200) -> Path:
    """A file of the tiny tokenizer's words."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(4, VOCABULARY, (count,), generator=generator).tolist()
    lines = [" ".join(f"w{i}" for i in numbers[n : n + 60]) for n in range(0, count, 60)]
    path.write_text("\n\n".join(lines))
    return path


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """Two students of one teacher, which lies in two folders."""
    folder = tmp_path_factory.mktemp("families")
    teacher = tiny_teacher("llama", True)
    kinds = {"ours": StudentKind.LOWRANK, "full": StudentKind.FULL}
    return {
        name: write_tiny_family(
            folder / name, teacher, tiny_student(teacher, kind), tiny_design(kind)
        )
        for name, kind in kinds.items()
    }


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    folder = tmp_path_factory.mktemp("texts")
    held_out, other = words(folder / "held-out.txt", 1), words(folder / "other.txt", 2)
    return Texts(Sample(held_out, 120, ROW_LENGTH), str(other), 400, seed=5)


@pytest.fixture(scope="module")
def compared(
    families: dict[str, Family], texts: Texts, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("compared") / "comparison.json"
    return compare(families, ["naive", "shortgpt", "laco"], texts, out, CPU), out


class TestCompare:
    def test_every_series_has_the_depths_of_the_sizes(
        self, compared: tuple[Comparison, Path], families: dict[str, Family]
    ) -> None:
        comparison, _ = compared
        names = [series.name for series in comparison.series]
        assert names == ["ours", "full", "naive pruning", "ShortGPT", "LaCo"]
        rows = families["ours"].rows
        for series in comparison.series:
            assert [point.layers for point in series.points] == [row.layers for row in rows]
            assert [point.params for point in series.points] == [row.params for row in rows]
            assert {point.quality.n for point in series.points} == {comparison.rows["n"]}
            assert series.points[-1].quality.kl == pytest.approx(0, abs=1e-4)  # the teacher
            assert series.points[0].quality.kl > 0.01

    def test_equals_what_each_family_measures_alone(
        self, compared: tuple[Comparison, Path], families: dict[str, Family], texts: Texts
    ) -> None:
        comparison, _ = compared
        for name, family in families.items():
            measured = evaluate_family(family, texts.sample)
            [ours] = [series for series in comparison.series if series.name == name]
            assert [p.quality.kl for p in ours.points] == pytest.approx(
                [quality.kl for quality in measured.family], abs=1e-4
            )
        [naive] = [series for series in comparison.series if series.kind == "naive"]
        assert [p.quality.kl for p in naive.points] == pytest.approx(
            [quality.kl for quality in measured.naive], abs=1e-4
        )

    def test_what_was_written_reads_back(self, compared: tuple[Comparison, Path]) -> None:
        comparison, out = compared
        assert read_comparison(out) == comparison

    def test_a_stopped_comparison_goes_on(
        self,
        compared: tuple[Comparison, Path],
        families: dict[str, Family],
        texts: Texts,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        comparison, out = compared
        record = json.loads(out.read_text())
        record["series"] = record["series"][:3]  # stopped before ShortGPT
        part = tmp_path / "part.json"
        part.write_text(json.dumps(record))
        measured: list[str] = []
        series = comparing._Bench.series

        def noted(bench: Any, job: Any) -> Any:
            measured.append(job.name)
            return series(bench, job)

        monkeypatch.setattr(comparing._Bench, "series", noted)
        again = compare(families, ["naive", "shortgpt", "laco"], texts, part, CPU)
        assert measured == ["ShortGPT", "LaCo"]
        assert [s.points for s in again.series] == [s.points for s in comparison.series]
        compare(families, ["shortgpt"], replace(texts, seed=6), part, CPU)
        assert measured == ["ShortGPT", "LaCo", "ShortGPT"]  # calibrated on other rows

    def test_other_rows_do_not_go_into_the_same_file(
        self, compared: tuple[Comparison, Path], families: dict[str, Family], texts: Texts
    ) -> None:
        _, out = compared
        before = out.read_bytes()
        with pytest.raises(DataError, match=r"measured on other rows .*: give a new --out"):
            compare(
                families,
                ["naive"],
                replace(texts, sample=replace(texts.sample, tokens=60)),
                out,
                CPU,
            )
        assert out.read_bytes() == before

    def test_another_teacher_is_refused(
        self, families: dict[str, Family], texts: Texts, tmp_path: Path
    ) -> None:
        teacher = tiny_teacher("llama", True)
        teacher.model.norm.weight.data[0] += 1
        student = tiny_student(teacher, StudentKind.LOWRANK)
        design = tiny_design(StudentKind.LOWRANK)
        other = write_tiny_family(tmp_path / "other", teacher, student, design)
        out = tmp_path / "out.json"
        with pytest.raises(FamilyError, match="other has another teacher than ours"):
            compare({"ours": families["ours"], "other": other}, ["naive"], texts, out, CPU)
        assert not out.exists()

    @pytest.mark.parametrize(
        ("baselines", "change", "error", "reason"),
        [
            (["wanda"], {}, SettingsError, "no baseline 'wanda'; there are naive, shortgpt, laco"),
            (["laco"], {"calibration": None}, SettingsError, "give --calibration"),
            (["laco"], {"calibration": "missing.txt"}, DataError, "missing.txt"),
            (["naive"], {"sample": Sample(Path("missing.txt"), 120, 32)}, DataError, "missing.txt"),
            (["naive"], {"sample": Sample(Path(__file__), 10**6, 32)}, DataError, "give more text"),
        ],
    )
    def test_refuses(
        self,
        baselines: list[str],
        change: dict[str, Any],
        error: type[Exception],
        reason: str,
        families: dict[str, Family],
        texts: Texts,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(error, match=reason):
            compare(families, baselines, replace(texts, **change), tmp_path / "out.json", CPU)

    def test_calibrating_on_what_is_measured_is_refused(
        self, families: dict[str, Family], texts: Texts, tmp_path: Path
    ) -> None:
        copied = tmp_path / "copy.txt"
        copied.write_bytes(texts.sample.text.read_bytes())
        with pytest.raises(DataError, match="calibrate on another text"):
            compare(
                families, ["laco"], replace(texts, calibration=str(copied)), tmp_path / "o", CPU
            )

    def test_the_command_prints_a_row_a_size_and_a_column_a_series(
        self,
        compared: tuple[Comparison, Path],
        families: dict[str, Family],
        texts: Texts,
        tmp_path: Path,
    ) -> None:
        names = [f"{name}={family.root}" for name, family in families.items()]
        out = tmp_path / "comparison.json"
        arguments = ["compare", *names, "--text", str(texts.sample.text), "--tokens", "120"]
        arguments += ["--row-length", str(ROW_LENGTH), "--out", str(out), "--device", "cpu"]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
        table = result.stdout.splitlines()
        assert table[0].split() == ["layers", "ours", "full", "naive", "pruning"]
        assert [line.split()[0] for line in table[1:-1]] == ["4", "5", "6"]
        assert {len(line.split()) for line in table[1:-1]} == {4}
        assert table[-1].endswith("n = 124 tokens")

    def test_two_families_of_one_name_are_refused(
        self, families: dict[str, Family], texts: Texts, tmp_path: Path
    ) -> None:
        folders = [str(family.root) for family in families.values()]
        arguments = [
            "compare",
            *folders,
            "--text",
            str(texts.sample.text),
            "--out",
            str(tmp_path / "o"),
        ]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 2
        assert "two families are called 'tiny': rename one, as NAME=FOLDER" in result.output


def test_lacos_sentences_lie_at_equal_distances() -> None:
    text = [torch.arange(500), torch.arange(500, 1000)]
    found = sentences(text, None)
    assert found.shape == (SENTENCES, SENTENCE_TOKENS)
    assert found[:, 0].tolist() == [96 * place for place in range(10)]
    assert sentences(text, 7)[:, 0].tolist() == [7] * SENTENCES
    with pytest.raises(DataError, match="9 sentences of 32 tokens; LaCo takes 10: give more"):
        sentences([torch.arange(319)], None)
