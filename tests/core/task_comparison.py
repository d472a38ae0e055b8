"""Comparisons of two tiny families and all baselines on a task."""

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from boomerang_core.compare.comparison import Comparison
from boomerang_core.compare.run import Texts, compare
from boomerang_core.evaluate.items import TaskRow
from boomerang_core.evaluate.tasks import TaskSettings
from boomerang_core.family import Family
from boomerang_core.route import StudentKind
from boomerang_core.text.evaluation import Sample
from tests.core.conftest import ROW_LENGTH, tiny_design, tiny_student, write_tiny_family
from tests.core.rows import words
from tests.core.task_bench import CHOICES, Bench
from tests.core.test_compare import CPU
from tests.core.test_compare import words as text_of_words

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
    texts = Texts(Sample(held_out, 60, ROW_LENGTH), str(other), 400, seed=5)
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
