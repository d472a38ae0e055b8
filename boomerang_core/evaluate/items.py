"""What was measured on each item of a task, and what that says about every size; no torch.

An item is one question, one problem or one document.  All sizes answer the same items, so a row
of the table compares a size with the teacher item by item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from boomerang_core.errors import DataError
from boomerang_core.evaluate.pairs import Estimate, difference, estimate

_DIGITS = 5

Figures = Sequence[float | None]


@dataclass(frozen=True)
class Item:
    """How one size did on one item.

    `metrics` are lm-eval's, as `metric,filter`; `accuracy` is the one that counts, None for text
    that is only read.  `log_likelihood` in nats: of the right choice, or a word of the text, of
    which there are `words`.  `tokens` of the generated `answer`.  `prompt` is a hash.
    """

    task: str
    id: int
    prompt: str
    accuracy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    log_likelihood: float | None = None
    words: int | None = None
    tokens: int | None = None
    answer: str | None = None


class Answering(Protocol):
    """The size that a row is about: a `SizeRow`, or what else has a name and dimensions."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def layers(self) -> int:
        """Layers that it runs."""

    @property
    def params(self) -> int:
        """Parameters standing alone."""


@dataclass(frozen=True)
class TaskRow:
    """One size on one task: the fields of a row of `tasks.json`, which `tasks.py` documents."""

    task: str
    size: str
    layers: int
    params: int
    n: int
    accuracy: float | None
    se: float | None
    difference: float | None
    difference_se: float | None
    log_likelihood: float | None
    log_likelihood_se: float | None
    log_likelihood_difference: float | None
    log_likelihood_difference_se: float | None
    perplexity: float | None
    tokens_per_answer: float | None
    tokens_per_answer_se: float | None
    metrics: Mapping[str, float]

    @property
    def mean_accuracy(self) -> Estimate | None:
        """The accuracy with its error."""
        return None if self.accuracy is None else Estimate(self.accuracy, self.se, self.n)

    @property
    def mean_log_likelihood(self) -> Estimate | None:
        """The log likelihood with its error."""
        if self.log_likelihood is None:
            return None
        return Estimate(self.log_likelihood, self.log_likelihood_se, self.n)


def task_row(task: str, size: Answering, items: Sequence[Item], teacher: Sequence[Item]) -> TaskRow:
    """The row of a size; that of the teacher, without differences, where the items are its own.

    Raises `DataError` where size and teacher answered other items.
    """
    _check_same(task, size, items, teacher)
    words = [float(item.words) for item in items if item.words is not None] or None
    accuracies = [item.accuracy for item in items], [item.accuracy for item in teacher]
    nats = [item.log_likelihood for item in items], [item.log_likelihood for item in teacher]
    itself = items is teacher
    likelihood = _mean(nats[0], words)
    return TaskRow(
        task=task,
        size=size.id,
        layers=size.layers,
        params=size.params,
        n=len(items),
        **_two("accuracy", "se", _mean(accuracies[0])),
        **_two("difference", "difference_se", None if itself else _gap(*accuracies)),
        **_two("log_likelihood", "log_likelihood_se", likelihood),
        **_two(
            "log_likelihood_difference",
            "log_likelihood_difference_se",
            None if itself else _gap(*nats, words),
        ),
        perplexity=_rounded(math.exp(-likelihood.mean)) if likelihood and words else None,
        **_two("tokens_per_answer", "tokens_per_answer_se", _mean([i.tokens for i in items])),
        metrics=_metric_means(items),
    )


def _check_same(task: str, size: Answering, items: Sequence[Item], teacher: Sequence[Item]) -> None:
    ours, theirs = ([(i.task, i.id, i.prompt) for i in each] for each in (items, teacher))
    if ours != theirs:
        raise DataError(f"{task}: {size.id} answered other items than the teacher; measure anew")


def _mean(values: Figures, weights: Sequence[float] | None = None) -> Estimate | None:
    known = [value for value in values if value is not None]
    return estimate(known, weights) if len(known) == len(values) else None


def _gap(values: Figures, base: Figures, weights: Sequence[float] | None = None) -> Estimate | None:
    known = [(x, y) for x, y in zip(values, base, strict=True) if x is not None and y is not None]
    if len(known) < len(values):
        return None
    return difference([x for x, _ in known], [y for _, y in known], weights)


def _metric_means(items: Sequence[Item]) -> dict[str, float]:
    """The mean of every metric that all items have."""
    names = [name for name in items[0].metrics if all(name in item.metrics for item in items)]
    means = (estimate([item.metrics[name] for item in items]).mean for name in names)
    return {name: round(mean, _DIGITS) for name, mean in zip(names, means, strict=True)}


def _two(name: str, error: str, figure: Estimate | None) -> dict[str, Any]:
    """A figure and its standard error, as two fields of a row."""
    if figure is None:
        return {name: None, error: None}
    return {name: _rounded(figure.mean), error: _rounded(figure.se)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
