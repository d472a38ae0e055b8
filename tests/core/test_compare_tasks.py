"""Tiny families and baselines on tasks: the same items, answered once, against plain models."""

import gc
import json
import random
import statistics
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.assemble import assemble
from boomerang_core.baselines.laco import laco_student
from boomerang_core.errors import DataError, SettingsError
from boomerang_core.evaluate import compare as comparing
from boomerang_core.evaluate import compare_tasks
from boomerang_core.evaluate.compare import Texts, compare
from boomerang_core.evaluate.comparison import Comparison, read_comparison
from boomerang_core.evaluate.items import TaskRow
from boomerang_core.evaluate.planned import PlannedLadder
from boomerang_core.evaluate.tasks import TaskSettings, evaluate_tasks
from boomerang_core.family import Family
from boomerang_core.route import StudentKind
from tests.core.conftest import ROW_LENGTH, tiny_design, tiny_student, write_tiny_family
from tests.core.test_compare import CPU
from tests.core.test_compare import words as text_of_words
from tests.core.test_tasks import CHOICES, Bench, words

BASELINES = ["naive", "shortgpt", "laco"]
SERIES = ["ours", "full", "naive pruning", "ShortGPT", "LaCo"]
SIZES = 3  # of each, the teacher last
ANSWERS = len(SERIES) * (SIZES - 1) + 1  # the teacher answers once
DOCS = 10


@dataclass
class Run:
    """Comparisons of two families and all baselines on a task, in one folder."""

    bench: Bench
    families: dict[str, Family]
    texts: Texts
    settings: TaskSettings
    told: list[str] = field(default_factory=list)

    def __call__(
        self, out: Path, texts: Texts | None = None, scored: bool = True, **settings: Any
    ) -> Comparison:
        self.told.clear()
        asked = replace(self.settings, **settings) if scored else None
        chosen = texts or self.texts
        return compare(self.families, BASELINES, chosen, out, CPU, asked, self.told.append)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    rng = random.Random(7)
    docs = [
        {
            "question": words(rng, 6),
            "choices": [words(rng, rng.randrange(1, 4)) for _ in range(3)],
            "gold": rng.randrange(3),
        }
        for _ in range(DOCS)
    ]
    folder = tmp_path_factory.mktemp("run")
    bench = Bench(folder, docs)
    student = tiny_student(bench.teacher, StudentKind.FULL, True)
    design = tiny_design(StudentKind.FULL, True)
    full = write_tiny_family(folder / "full", bench.teacher, student, design)
    held_out = text_of_words(folder / "held-out.txt", 1)
    other = text_of_words(folder / "other.txt", 2)
    texts = Texts(held_out, 60, ROW_LENGTH, str(other), 300, seed=5)
    settings = TaskSettings((bench.task("pick", CHOICES),), batch_size=4)
    return Run(bench, {"ours": bench.family, "full": full}, texts, settings)


@pytest.fixture(scope="module")
def compared(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("compared") / "comparison.json"
    comparison = run(out)
    assert len(run.told) == ANSWERS
    return comparison, out


@pytest.fixture
def begun(compared: tuple[Comparison, Path], tmp_path: Path) -> Path:
    """A comparison whose ladders are measured, and no task."""
    record = json.loads(compared[1].read_text())
    del record["tasks"]
    out = tmp_path / "comparison.json"
    out.write_text(json.dumps(record))
    return out


def rows(comparison: Comparison) -> dict[str, list[TaskRow]]:
    assert comparison.tasks is not None
    return comparison.tasks.of("pick", [series.name for series in comparison.series])


def figures(row: TaskRow) -> dict[str, Any]:
    """All but the name of the size."""
    return {name: value for name, value in asdict(row).items() if name != "size"}


def planned(run: Run) -> dict[str, PlannedLadder]:
    """What each series runs, found again."""
    bench = comparing._Bench(run.families, run.texts, CPU)
    return {job.name: job.plan() for job in bench.jobs(BASELINES)}


def right_nats(run: Run, model: Any) -> list[float]:
    """Log likelihood of every right choice, by plain forward passes."""
    found = []
    for doc in run.bench.docs:
        context, right = doc["question"], doc["choices"][doc["gold"]]
        before, after = (run.bench.tokenizer(part)["input_ids"] for part in (context, right))
        with torch.no_grad():
            log_probs_LV = model(torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(after) - 1)
        picked = (log_probs_LV[place, token] for place, token in zip(places, after, strict=True))
        found.append(sum(float(nats) for nats in picked))
    return found


class TestScores:
    def test_every_size_of_every_series_is_scored_as_plain_transformers_scores_it(
        self, compared: tuple[Comparison, Path], run: Run
    ) -> None:
        found = rows(compared[0])
        assert list(found) == SERIES
        teacher = right_nats(run, run.bench.teacher)
        seen = set()
        for name, ladder in planned(run).items():
            models = [
                assemble(run.bench.teacher, section.student(run.bench.teacher), route)
                for section in ladder.sections
                for route in section.routes
            ]
            for row, model in zip(found[name], models, strict=True):
                nats = right_nats(run, model)
                assert row.log_likelihood == pytest.approx(statistics.fmean(nats), rel=1e-4)
                if row is not found[name][-1]:
                    gaps = [x - y for x, y in zip(nats, teacher, strict=True)]
                    mean, error = statistics.fmean(gaps), statistics.stdev(gaps) / DOCS**0.5
                    assert row.log_likelihood_difference == pytest.approx(mean, abs=1e-4)
                    assert row.log_likelihood_difference_se == pytest.approx(error, abs=1e-4)
                seen.add(row.log_likelihood)
        assert len(seen) > SIZES * 2  # a mix-up would show

    def test_families_score_as_when_evaluated_alone(
        self, compared: tuple[Comparison, Path], run: Run, tmp_path: Path
    ) -> None:
        found = rows(compared[0])
        for name, family in run.families.items():
            settings = replace(run.settings, device="cpu")
            alone, _ = evaluate_tasks(family, settings, family.rows, tmp_path / name, print)
            assert [figures(row) for row in found[name]] == [figures(row) for row in alone]

    def test_every_ladder_ends_at_the_teacher_which_answers_once(
        self, compared: tuple[Comparison, Path], run: Run
    ) -> None:
        ends = [sizes[-1] for sizes in rows(compared[0]).values()]
        assert ends == [ends[0]] * len(SERIES)
        nats = right_nats(run, run.bench.teacher)
        assert ends[0].log_likelihood == pytest.approx(statistics.fmean(nats), rel=1e-4)
        assert (ends[0].difference, ends[0].log_likelihood_difference) == (None, None)
        answers = compared[1].with_suffix(".items") / "pick"
        assert len(list(answers.iterdir())) == ANSWERS

    def test_all_answer_the_same_items(self, compared: tuple[Comparison, Path]) -> None:
        answers = compared[1].with_suffix(".items") / "pick"
        asked = [
            [(item["task"], item["id"], item["prompt"]) for item in record["result"]]
            for record in (json.loads(path.read_text()) for path in answers.iterdir())
        ]
        assert len(asked[0]) == DOCS
        assert asked == [asked[0]] * ANSWERS

    def test_what_was_written_reads_back(self, compared: tuple[Comparison, Path]) -> None:
        assert read_comparison(compared[1]) == compared[0]

    def test_in_bfloat16_the_teacher_of_the_tasks_is_and_the_only_one(
        self, run: Run, begun: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ShortGPT and LaCo are planned in float32 before."""
        run_leaf, seen = compare_tasks.run_leaf, set()
        load, loaded = comparing.load_teacher, list[weakref.ref[Any]]()

        def watched(*args: Any) -> Any:
            assert not any(ref() is not None for ref in loaded)
            model = load(*args)
            loaded.append(weakref.ref(model))
            return model

        monkeypatch.setattr(comparing, "load_teacher", watched)

        def noted(leaf: Any, lm: Any, *rest: Any) -> Any:
            seen.update(parameter.dtype for parameter in lm.model.parameters())
            return run_leaf(leaf, lm, *rest)

        monkeypatch.setattr(compare_tasks, "run_leaf", noted)
        run(begun, dtype="bfloat16", limit=2)
        assert seen == {torch.bfloat16}
        assert len(loaded) == 2

    def test_one_lacos_weights_are_in_memory_at_a_time(
        self, run: Run, begun: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive: list[weakref.ref[Any]] = []
        most = []

        def watched(*args: Any) -> Any:
            gc.collect()
            most.append(sum(ref() is not None for ref in alive))
            student = laco_student(*args)
            alive.append(weakref.ref(student))
            return student

        monkeypatch.setattr("boomerang_core.baselines.ladders.laco_student", watched)
        run(begun, limit=2)
        assert most == [0, 0]  # the teacher's depth has its answers already


class TestKept:
    def test_nothing_is_run_again_or_loaded(
        self, compared: tuple[Comparison, Path], run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(comparing, "load_teacher")
        again = run(compared[1], batch_size=2)
        assert rows(again) == rows(compared[0])
        assert run.told == []

    def test_a_stopped_run_goes_on(
        self,
        compared: tuple[Comparison, Path],
        run: Run,
        begun: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(compare_tasks, "run_leaf", stopping(compare_tasks.run_leaf, 6))
            with pytest.raises(KeyboardInterrupt):
                run(begun)
        assert len(run.told) == 6
        done = list(run.told)
        assert read_comparison(begun).tasks is None
        plans: list[str] = []
        plan = comparing._Bench.plan

        def noted(bench: Any, job: Any) -> Any:
            plans.append(job.name)
            return plan(bench, job)

        monkeypatch.setattr(comparing._Bench, "plan", noted)
        assert rows(run(begun)) == rows(compared[0])
        assert len(run.told) == ANSWERS - 6
        first, second = ({line.split(":")[0] for line in told} for told in (done, run.told))
        assert not first & second
        assert plans == SERIES[2:]  # both families have their answers: they are not planned

    def test_other_settings_and_other_questions_are_answered_anew(
        self, run: Run, compared: tuple[Comparison, Path], begun: Path
    ) -> None:
        assert {row.n for row in rows(run(begun, limit=5))["LaCo"]} == {5}
        assert len(run.told) == ANSWERS
        other = run.bench.task("pick", {**CHOICES, "doc_to_text": "w7 {{question}}"})
        try:
            changed = run(begun, limit=5)
            assert len(run.told) == ANSWERS
        finally:
            run.bench.task("pick", CHOICES)
        assert other == run.settings.tasks[0]
        assert rows(changed) != rows(compared[0])

    def test_a_ladder_of_another_source_answers_anew(
        self, run: Run, compared: tuple[Comparison, Path], begun: Path
    ) -> None:
        assert rows(run(begun)) == rows(compared[0])
        run(begun, replace(run.texts, seed=6))  # which decides what the last two calibrate on
        assert len(run.told) == 4
        assert {line.split()[1] for line in run.told} == {"ShortGPT", "LaCo"}

    def test_without_tasks_they_stay_but_for_a_series_that_is_measured_anew(
        self, run: Run, compared: tuple[Comparison, Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "copy.json"
        out.write_bytes(compared[1].read_bytes())
        assert run(out, scored=False).tasks == compared[0].tasks
        kept = run(out, replace(run.texts, seed=6), scored=False)
        assert list(rows(kept)) == SERIES[:3]
        assert read_comparison(out) == kept

    def test_a_series_that_was_not_asked_for_keeps_its_scores_or_is_named(
        self, run: Run, compared: tuple[Comparison, Path], begun: Path
    ) -> None:
        run(begun)
        ours, told = {"ours": run.families["ours"]}, list[str]()
        kept = compare(ours, ["naive"], run.texts, begun, CPU, run.settings, told.append)
        assert rows(kept) == rows(compared[0])
        assert told == []
        fewer = replace(run.settings, limit=4)
        some = compare(ours, ["naive"], run.texts, begun, CPU, fewer, told.append)
        assert list(rows(some)) == ["ours", "naive pruning"]
        left_out = {line.partition(" did not answer")[0] for line in told if "did not" in line}
        assert left_out == {"full", "ShortGPT", "LaCo"}


def stopping(run_leaf: Callable[..., Any], count: int) -> Callable[..., Any]:
    """It, until it was called that many times."""
    calls: Iterator[int] = iter(range(count))

    def stop(*args: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return run_leaf(*args)

    return stop


class TestCommand:
    def command(self, run: Run, out: Path, *options: str) -> Any:
        names = [f"{name}={family.root}" for name, family in run.families.items()]
        text = ["--text", str(run.texts.text), "--tokens", "60", "--row-length", str(ROW_LENGTH)]
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

    def test_what_belongs_to_tasks_is_not_looked_at_without_them(
        self, run: Run, begun: Path
    ) -> None:
        """As `evaluate` has it."""
        result = self.command(run, begun, "--limit", "3", "--dtype", "int8")
        assert result.exit_code == 0, result.output
        assert read_comparison(begun).tasks is None


def test_questions_that_cannot_be_had_show_before_anything_is_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = run.bench.task("lost", CHOICES)
    (run.bench.folder / "lost.jsonl").unlink()
    monkeypatch.delattr(comparing, "load_teacher")
    with pytest.raises(DataError, match=r"data of the task .*lost\.yaml cannot be had"):
        run(tmp_path / "o.json", tasks=(lost,))
    with pytest.raises(SettingsError, match=r"no such YAML file"):
        run(tmp_path / "o.json", tasks=("no.yaml",))
