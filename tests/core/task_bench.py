"""A tiny random family, plain transformers beside it, and tasks about nothing."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from boomerang_core.assemble import assemble
from boomerang_core.evaluate.items import Item, TaskRow
from boomerang_core.evaluate.tasks import TaskSettings, evaluate_tasks
from boomerang_core.family import Family
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import Student
from tests.core.conftest import (
    tiny_design,
    tiny_student,
    tiny_teacher,
    tiny_tokenizer,
    write_tiny_family,
)
from tests.core.rows import words

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ],
}
ANSWERS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": ["w9"], "do_sample": False, "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def docs() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            "question": words(rng, rng.randrange(3, 8)),
            "choices": [words(rng, rng.randrange(1, 4)) for _ in range(3)],
            "gold": rng.randrange(3),
        }
        for _ in range(12)
    ]


class Bench:
    """A family on disk, its models, and tasks about nothing as YAML files."""

    def __init__(
        self,
        folder: Path,
        docs: list[dict[str, Any]],
        kind: StudentKind = LOWRANK,
        own: bool = False,
    ) -> None:
        self.folder, self.docs = folder, docs
        self.teacher = tiny_teacher("llama", tied=True)
        self.student: Student = tiny_student(self.teacher, kind, own)
        self.design = tiny_design(kind, own)
        self.family: Family = write_tiny_family(
            folder / "family", self.teacher, self.student, self.design
        )
        self.tokenizer = tiny_tokenizer()

    def task(self, name: str, settings: dict[str, Any], **more: Any) -> str:
        """The path of a task's YAML file."""
        data = self.folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(doc) + "\n" for doc in self.docs))
        splits = {"test": str(data), "train": str(data)}
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": splits, "cache_dir": str(self.folder / "cache")},
            "test_split": "test",
            **settings,
            **more,
        }
        text = yaml.safe_dump(config).replace(
            "'!function reading.scores'", "!function reading.scores"
        )
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    def run(self, task: str, out: str = "out", **settings: Any) -> list[TaskRow]:
        self.told: list[str] = []
        given = TaskSettings((task,), **{"device": "cpu", **settings})
        rows, record = evaluate_tasks(
            self.family, given, self.family.rows, self.folder / out, self.told.append
        )
        assert json.loads((self.folder / out / "tasks.json").read_text()) == json.loads(
            json.dumps(record)
        )
        return rows

    def items(self, task: str, size: int, out: str = "out") -> list[Item]:
        path = self.folder / out / "items" / task / f"{self.family.rows[size].id}.json"
        return [Item(**item) for item in json.loads(path.read_text())["result"]]

    def model(self, size: int) -> Any:
        return assemble(self.teacher, self.student, build_route(self.design, size))

    def nats(self, size: int, context: str, text: str) -> float:
        """Log-likelihood of a text after a context, by one plain forward pass."""
        before, after = (self.tokenizer(part)["input_ids"] for part in (context, text))
        ids_1L = torch.tensor([[*before, *after]])
        with torch.no_grad():
            log_probs_LV = self.model(size)(ids_1L).logits[0].log_softmax(-1)
        start = len(before) - 1
        return sum(log_probs_LV[start + i, token].item() for i, token in enumerate(after))


@pytest.fixture
def bench(tmp_path: Path, docs: list[dict[str, Any]]) -> Bench:
    return Bench(tmp_path, docs)
