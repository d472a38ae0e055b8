"""A tiny family's comparison, and the other files that a report reads."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from boomerang_core.compare.comparison import Comparison, Point, Series, write_comparison
from boomerang_core.family import Family, family_source
from boomerang_core.report.findings import GivenFiles
from boomerang_core.sizes import Quality
from tests.unit.test_report import DESIGN, family

NOTE = {"command": "boomerang compare <tiny>", "hardware": "a machine", "date": "2026-01-02"}
CURVES = [
    {
        "name": name,
        "points": [{"seconds": s, "tokens": 10 * s, "kl": scale / s} for s in (1, 10, 100)],
    }
    for name, scale in (("blockwise", 3.0), ("end to end", 5.0))
]
SOURCE = {  # of the family of `test_report.py`
    "family": "tiny<&>",
    "student": hashlib.sha256(b"tensors").hexdigest(),
    "blocks": DESIGN.block_map.to_json(),
    "ladder": DESIGN.ladder.to_json(),
}
SIMILARITY = {
    "source": SOURCE,
    "sizes": ["39m", "48m", "58m"],
    "blocks": [[0], [1, 2], [3, 4], [5]],
    "cosine": [[1.0, 0.9, 0.7, 0.8], [1.0, 0.9, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0]],
    "student": [
        [1.0, 0.5, 0.4, 0.3, 0.2, 0.1],
        [0.4, 0.8, 0.9, 0.3, 0.2, 0.1],
        [0.1, 0.2, 0.3, 0.8, 0.7, 0.4],  # nearer to the block's first layer than to its last
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    ],
    "n": 77,
    "provenance": {"text": "third.txt"},
}


def score(task: str, size: str, params: int, **figures: float | None) -> dict[str, Any]:
    """A row of `tasks.json`."""
    names = ("accuracy", "se", "log_likelihood", "log_likelihood_se", "perplexity")
    none = dict.fromkeys((*names, "tokens_per_answer", "tokens_per_answer_se"))
    return {"task": task, "size": size, "params": params, "n": 50, **none, **figures}


TASKS = {
    "source": SOURCE,
    "settings": {"lm_eval": "0.4"},
    "provenance": {"command": "boomerang evaluate <tasks>"},
    "rows": [
        score("quiz", "39m", 39_168_032, accuracy=0.25, se=0.06, log_likelihood=-1.5),
        score("quiz", "58m", 57_728_032, accuracy=0.5, se=None, log_likelihood=-1.25),
        score("prose", "39m", 39_168_032, log_likelihood=-3.5, perplexity=33.12),
        score("prose", "58m", 57_728_032, log_likelihood=-3.0, perplexity=20.09),
    ],
}
SPEED = {"load": "one request", "tokens_per_second": {"39m": 30.5, "58m": 20.0}}


def series(name: str, kind: str, kls: list[float], source: dict[str, Any] | None = None) -> Series:
    """A ladder of 4, 5 and 6 layers."""
    points = tuple(
        Point(layers, layers * 10**7, Quality(kl, 0.5, 20 + kl, 99))
        for layers, kl in zip((4, 5, 6), kls, strict=True)
    )
    return Series(name, kind, source or {}, points, NOTE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family(tmp_path_factory.mktemp("compared") / "family")


@pytest.fixture(scope="module")
def comparison(tiny: Family) -> Comparison:
    """The tiny family stands last, to be found by what it is made of."""
    naive = series("naive pruning", "naive", [3.0, 0.1, 0.0])
    return Comparison(
        {"teacher": "the teacher", "text": "other.txt", "n": 99},
        (
            series("LaCo", "laco", [4.25, 2.0, 0.0]),
            replace(naive, points=naive.points[1:]),  # it lacks the smallest size
            series("ours", "family", [0.5, 0.25, 0.0], family_source(tiny)),
        ),
    )


@pytest.fixture(scope="module")
def sources(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> GivenFiles:
    folder = tmp_path_factory.mktemp("files")
    write_comparison(comparison, folder / "comparison.json")
    values = {"curves": CURVES, "tasks": TASKS, "similarity": SIMILARITY, "speed": SPEED}
    for name, value in values.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return GivenFiles(**{name: folder / f"{name}.json" for name in ("comparison", *values)})
