"""Every size of a family on lm-eval's tasks, over the same items; the report is `tasks.json`.

    {"format": 1, "family": …, "source": {…}, "settings": {…}, "provenance": {…}, "rows": [{
      "task": …, "size": id, "layers": …, "params": …, "n": items,
      "accuracy": …, "se": …,                  the task's first metric that is a mean; exact match
                                               where answers are generated
      "difference": …, "difference_se": …,     to the teacher, paired by item
      "log_likelihood": …, "log_likelihood_se": …,
      "log_likelihood_difference": …, "log_likelihood_difference_se": …,
                                               nats of the right choice; a word, for plain text
      "perplexity": …,                         a word, for plain text
      "tokens_per_answer": …, "tokens_per_answer_se": …,    of generated answers
      "metrics": {"acc,none": …, …}            lm-eval's own, all that are numbers
    }, …]}

A figure that a task does not have is null, as are the teacher's differences and the error of one
item.  `se` is a standard error.  Rows come task by task, smallest size first, the teacher last.
`tokens_per_answer` leaves out what ended the answer, and is cut where the task cuts answers.

What each size answered stays in `items/TASK/SIZE.json`; a pair that is there, with the same
settings, is not run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boomerang_core.contents import TASKS
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.answers import read_answers, write_answers
from boomerang_core.evaluate.items import Item, TaskRow, task_row
from boomerang_core.family import Family, family_source
from boomerang_core.files import save_json
from boomerang_core.own_teacher import measured_source
from boomerang_core.provenance import provenance
from boomerang_core.sizes import SizeRow

if TYPE_CHECKING:
    from boomerang_core.evaluate.harness import Leaf, Models

FORMAT = 1
GROUPS: Mapping[str, tuple[str, ...]] = {
    # as the reference code of arXiv 2510.05064 names them, in its evaluate/evaluate.py
    "paper": (
        "arc_easy",
        "arc_challenge",
        "boolq",
        "hellaswag",
        "openbookqa",
        "piqa",
        "winogrande",
        "race",
        "mmlu",
        "rte",
    ),
    "paper_generation": ("gsm8k_cot", "ifeval", "hendrycks_math"),
    "local": ("local_gsm8k", "local_hellaswag", "local_truthfulqa_mc1"),
}
DTYPES = ("float32", "bfloat16", "float16")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class TaskSettings:
    """What to run, and how.

    `limit` takes the first items of every task.  With a `server` the sizes are asked over HTTP,
    `batch_size` requests at a time; otherwise they run here, in `dtype` on `device`.
    """

    tasks: tuple[str, ...]
    limit: int | None = None
    few_shot: int | None = None
    chat: bool = False
    batch_size: int = 1
    dtype: str = "float32"
    device: str | None = None
    server: str | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise SettingsError("name at least one task")
        if self.dtype not in DTYPES:
            raise SettingsError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def deciding(self) -> dict[str, Any]:
        """Those that decide the answers."""
        through = {"server": True} if self.server else {"server": False, "dtype": self.dtype}
        return {"limit": self.limit, "chat": self.chat, **through}

    def told(self, lm_eval: str) -> dict[str, Any]:
        """What a report says of them, and of the version of lm-eval."""
        names = [task_name(task) for task in self.tasks]
        asked = {"tasks": names, "few_shot": self.few_shot, **self.deciding}
        return {**asked, "lm_eval": lm_eval}


def named_tasks(text: str) -> tuple[str, ...]:
    """Names separated by commas, with our groups written out; each once."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(dict.fromkeys(task for name in names for task in GROUPS.get(name, (name,))))


def named_sizes(family: Family, text: str) -> list[SizeRow]:
    """`offered`, `all`, or names separated by commas; with the teacher, which all are compared to.

    Smallest first.  Raises `SizeError`.
    """
    table = family.table
    if text == "all":
        return list(table.rows)
    rows = table.offered if text == "offered" else map(table.named, text.split(","))
    return sorted({*rows, table.teacher}, key=lambda row: row.size)


def evaluate_tasks(
    family: Family, settings: TaskSettings, sizes: Sequence[SizeRow], out: Path, tell: Tell
) -> tuple[list[TaskRow], dict[str, Any]]:
    """Run every size on every task, and write `out/tasks.json`; its rows, and all of it.

    All data is loaded before the first size runs.  `tell` hears of every task and size.  Raises
    `SettingsError`, `DataError`, `CheckpointError`, `WriteError`.
    """
    from boomerang_core.evaluate.harness import VERSION, load_tasks

    leaves = load_tasks(settings.tasks, settings.few_shot)
    source = {**measured_source(family), "lm_eval": VERSION, **settings.deciding}
    run = _Run(family, settings, source, out / "items", tell)
    rows = [
        row
        for task, parts in leaves.items()
        for row in _task_rows(task, sizes, [run.items(part, sizes) for part in parts])
    ]
    record = _record(family, settings, VERSION, rows)
    save_json(record, out / TASKS)
    return rows, record


def _task_rows(
    task: str, sizes: Sequence[SizeRow], parts: Sequence[Mapping[int, Sequence[Item]]]
) -> list[TaskRow]:
    """A row for each size; a group's leaves count by their items."""
    items = {row.size: [item for part in parts for item in part[row.size]] for row in sizes}
    teacher = items[sizes[-1].size]
    return [task_row(task_name(task), row, items[row.size], teacher) for row in sizes]


def task_name(task: str) -> str:
    """A YAML file goes by its name: its folder is of this machine."""
    return Path(task).stem if task.endswith(".yaml") else task


class _Run:
    """Runs what is not finished; loads models when the first is needed."""

    def __init__(
        self,
        family: Family,
        settings: TaskSettings,
        source: Mapping[str, Any],
        folder: Path,
        tell: Tell,
    ) -> None:
        self._family, self._settings, self._source = family, settings, source
        self._folder, self._tell = folder, tell
        self._models: Models | None = None

    def items(self, leaf: Leaf, sizes: Sequence[SizeRow]) -> dict[int, list[Item]]:
        """What every size answered on one leaf."""
        return {row.size: self._size_items(leaf, row) for row in sizes}

    def _size_items(self, leaf: Leaf, row: SizeRow) -> list[Item]:
        path = self._folder / leaf.name / f"{row.id}.json"
        settings = {**self._source, **leaf.settings, "size": row.size}
        items = read_answers(path, settings)
        if items is None:
            items, seconds = self._answered(leaf, row)
            self._tell(f"{leaf.name} {row.id}: {len(items)} items in {seconds:.1f} s")
            write_answers(path, settings, items)
        return items

    def _answered(self, leaf: Leaf, row: SizeRow) -> tuple[list[Item], float]:
        from boomerang_core.evaluate.harness import run_leaf

        models = self._models = self._models or _models(self._family, self._settings)
        limit, chat = self._settings.limit, self._settings.chat
        start = time.monotonic()
        with models.as_one_error():
            items = run_leaf(leaf, models.of(row), models.tokenizer, limit, chat)
        return items, time.monotonic() - start


def _models(family: Family, settings: TaskSettings) -> Models:
    import torch

    from boomerang_core.devices import usable_device
    from boomerang_core.evaluate.harness import Assembled, Served

    if settings.server is not None:
        return Served(family, settings.server, settings.batch_size)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return Assembled(family, settings.batch_size, dtype, usable_device(settings.device))


def _record(
    family: Family, settings: TaskSettings, version: str, rows: Sequence[TaskRow]
) -> dict[str, Any]:
    """What `tasks.json` holds; how the machine is called does not belong there."""
    return {
        "format": FORMAT,
        "family": family.name,
        "source": family_source(family),
        "settings": settings.told(version),
        "provenance": provenance(family.seed),
        "rows": [asdict(row) for row in rows],
    }
