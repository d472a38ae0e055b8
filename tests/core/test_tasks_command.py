"""`boomerang evaluate --tasks`: what it prints and saves, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.errors import DataError, SettingsError
from boomerang_core.evaluate import harness
from boomerang_core.evaluate.tasks import TaskSettings, evaluate_tasks
from boomerang_core.family import load_family
from tests.core.task_bench import ANSWERS, CHOICES, Bench, bench, docs

__all__ = ["bench", "docs"]  # fixtures


def test_the_command_runs_prints_and_saves(bench: Bench) -> None:
    task = bench.task("pick", CHOICES)
    command = [
        "evaluate",
        str(bench.family.root),
        "--tasks",
        task,
        "--out",
        str(bench.folder / "o"),
    ]
    options = ["--limit", "3", "--sizes", "student", "--device", "cpu"]
    result = CliRunner().invoke(cli.app, [*command, *options, "--save"])
    assert result.exit_code == 0, result.output
    smallest, teacher = bench.family.rows[0], bench.family.rows[-1]
    heading, names, *lines = result.stdout.splitlines()
    assert heading == "pick, n = 3 items"
    assert names.split()[:3] == ["size", "layers", "accuracy"]
    table = [line.split()[:2] for line in lines[:-1]]
    assert table == [[row.id, str(row.layers)] for row in (smallest, teacher)]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(f"pick {row.id}: 3 items in" in result.stderr for row in (smallest, teacher))
    saved = json.loads((bench.family.root / "report" / "tasks.json").read_text())
    assert saved == json.loads((bench.folder / "o" / "tasks.json").read_text())
    assert [row["size"] for row in saved["rows"]] == [smallest.id, teacher.id]
    assert (saved["settings"]["tasks"], saved["settings"]["limit"]) == (["pick"], 3)
    assert load_family(bench.family.root).rows == bench.family.rows  # still whole


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --text, --tasks, or both"),
        (["--tasks", "local"], "give --out"),
        (["--text", "x", "--server", "http://x"], "--server needs --tasks"),
        (["--tasks", "local", "--out", "o", "--sizes", "9L"], "no size has 9 layers"),
        (["--tasks", "local", "--out", "o", "--dtype", "int8"], "dtype must be one of"),
        (["--tasks", ",", "--out", "o"], "name at least one task"),
    ],
)
def test_the_command_refuses(options: list[str], reason: str, bench: Bench) -> None:
    result = CliRunner().invoke(cli.app, ["evaluate", str(bench.family.root), *options])
    assert result.exit_code == 2
    assert reason in result.output


class OfflineManager(harness.TaskManager):
    """Knows no task but our own: to read the names of all takes half a minute."""

    def __init__(self, include_path: str, include_defaults: bool) -> None:
        super().__init__(include_path=include_path, include_defaults=False)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("no_such_task", SettingsError, "no task 'no_such_task'"),
        ("no_such_file.yaml", SettingsError, "no such YAML file"),
    ],
)
def test_an_unknown_task_is_named(
    name: str, error: type[Exception], reason: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "TaskManager", OfflineManager)
    with pytest.raises(error, match=reason):
        bench.run(name)


def test_data_that_cannot_be_had_shows_before_any_size_runs(bench: Bench) -> None:
    good, lost = bench.task("pick", CHOICES), bench.task("lost", CHOICES)
    (bench.folder / "lost.jsonl").unlink()
    settings = TaskSettings((good, lost), device="cpu")
    with pytest.raises(DataError, match=r"data of the task .*lost\.yaml cannot be had"):
        evaluate_tasks(bench.family, settings, bench.family.rows, bench.folder / "out", print)
    assert not (bench.folder / "out").exists()


def test_a_task_that_runs_generated_code_is_refused(bench: Bench) -> None:
    task = bench.task("code", ANSWERS, unsafe_code=True)
    with pytest.raises(SettingsError, match="code runs generated code"):
        bench.run(task)


def test_a_missing_harness_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "boomerang_core.evaluate.harness")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    options = ["--tasks", "local", "--out", "o"]
    result = CliRunner().invoke(cli.app, ["evaluate", str(bench.family.root), *options])
    assert result.exit_code == 2
    assert (
        "tasks need the package lm_eval: pip install '.[eval]' in Boomerang's source folder"
        in result.output
    )
