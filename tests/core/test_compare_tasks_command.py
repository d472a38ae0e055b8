"""`boomerang compare --tasks`: what it prints, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.compare import run as comparing
from boomerang_core.compare.comparison import Comparison, read_comparison
from boomerang_core.errors import DataError, SettingsError
from tests.core.conftest import ROW_LENGTH
from tests.core.task_bench import CHOICES
from tests.core.task_comparison import DOCS, Run, begun, compared, rows, run

__all__ = ["begun", "compared", "run"]  # fixtures


class TestCommand:
    def command(self, run: Run, out: Path, *options: str) -> Any:
        names = [f"{name}={family.root}" for name, family in run.families.items()]
        text = [
            "--text",
            str(run.texts.sample.text),
            "--tokens",
            "60",
            "--row-length",
            str(ROW_LENGTH),
        ]
        rest = ["--out", str(out), "--device", "cpu", *options]
        return CliRunner().invoke(cli.app, ["compare", *names, *text, *rest])

    def test_it_prints_a_table_a_task(
        self, run: Run, compared: tuple[Comparison, Path], begun: Path
    ) -> None:
        options = ["--tasks", run.settings.tasks[0], "--batch-size", "4"]
        result = self.command(run, begun, *options)
        assert result.exit_code == 0, result.output
        head, *lines, foot = result.stdout.split("\n\n")[1].splitlines()
        assert head.split() == ["layers", "ours", "full", "naive", "pruning"]
        assert foot == f"pick: accuracy ± standard error, n = {DOCS} items"
        found = rows(compared[0])
        for line, sizes in zip(lines, zip(*list(found.values())[:3], strict=True), strict=True):
            cells = [f"{row.accuracy:.2f} ± {row.se:.2f}" for row in sizes]
            assert line.split() == [str(sizes[0].layers), *" ".join(cells).split()]
        assert f"pick ours 4L: {DOCS} items in" in result.stderr
        assert result.stderr.count("pick the teacher:") == 1

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--tasks", ","], "name at least one task"),
            (["--tasks", "x.yaml", "--dtype", "int8"], "dtype must be one of float32, bfloat16"),
            (["--tasks", "missing.yaml"], "there is no such YAML file"),
            (["--tasks", "local", "--limit", "0"], "than or equal to 1"),
            (["--tasks", "local", "--server", "http://x"], "No such option"),
        ],
    )
    def test_refuses(self, options: list[str], reason: str, run: Run, tmp_path: Path) -> None:
        result = self.command(run, tmp_path / "o.json", *options)
        assert result.exit_code == 2
        assert reason in result.output
        assert list(tmp_path.iterdir()) == []

    def test_what_belongs_to_tasks_is_refused_without_them(self, run: Run, begun: Path) -> None:
        """As `evaluate` has it."""
        result = self.command(run, begun, "--limit", "3")
        assert result.exit_code == 2
        assert result.output == "error: --limit needs --tasks\n"
        assert read_comparison(begun).tasks is None


def test_questions_that_cannot_be_had_show_before_anything_is_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = run.bench.task("lost", CHOICES)
    (run.bench.folder / "lost.jsonl").unlink()
    monkeypatch.delattr(comparing, "frozen_teacher")
    with pytest.raises(DataError, match=r"data of the task .*lost\.yaml cannot be had"):
        run(tmp_path / "o.json", tasks=(lost,))
    with pytest.raises(SettingsError, match=r"no such YAML file"):
        run(tmp_path / "o.json", tasks=("no.yaml",))
