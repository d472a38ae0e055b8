"""Tiny families and baselines on tasks: the same items, answered once, against plain models."""

import gc
import json
import statistics
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.assemble import assemble
from boomerang_core.baselines.laco import laco_student
from boomerang_core.compare import run as comparing
from boomerang_core.compare import tasks as answering
from boomerang_core.compare.comparison import Comparison, read_comparison
from boomerang_core.compare.run import compare
from boomerang_core.evaluate.items import TaskRow
from boomerang_core.evaluate.planned import PlannedLadder
from boomerang_core.evaluate.tasks import evaluate_tasks
from tests.core.task_bench import CHOICES
from tests.core.task_comparison import (
    ANSWERS,
    BASELINES,
    DOCS,
    SERIES,
    SIZES,
    Run,
    begun,
    compared,
    rows,
    run,
)
from tests.core.test_compare import CPU

__all__ = ["begun", "compared", "run"]  # fixtures


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
        run_leaf, seen = answering.run_leaf, set()
        load, loaded = comparing.frozen_teacher, list[weakref.ref[Any]]()

        def watched(*args: Any) -> Any:
            assert not any(ref() is not None for ref in loaded)
            model = load(*args)
            loaded.append(weakref.ref(model))
            return model

        monkeypatch.setattr(comparing, "frozen_teacher", watched)

        def noted(leaf: Any, lm: Any, *rest: Any) -> Any:
            seen.update(parameter.dtype for parameter in lm.model.parameters())
            return run_leaf(leaf, lm, *rest)

        monkeypatch.setattr(answering, "run_leaf", noted)
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


def stopping(run_leaf: Callable[..., Any], count: int) -> Callable[..., Any]:
    """It, until it was called that many times."""
    calls: Iterator[int] = iter(range(count))

    def stop(*args: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return run_leaf(*args)

    return stop


class TestKept:
    def test_nothing_is_run_again_or_loaded(
        self, compared: tuple[Comparison, Path], run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(comparing, "frozen_teacher")
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
            patch.setattr(answering, "run_leaf", stopping(answering.run_leaf, 6))
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
