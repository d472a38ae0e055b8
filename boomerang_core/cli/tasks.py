"""Tasks of lm-eval as `evaluate` and `compare` have them: their options, and what is printed."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from boomerang_core.errors import SettingsError, install_hint
from boomerang_core.evaluate.tasks import DTYPES, GROUPS

if TYPE_CHECKING:
    from boomerang_core.evaluate.items import TaskRow

Tasks = Annotated[
    str | None,
    typer.Option(help=f"lm-eval's names, YAML files, {', '.join(GROUPS)}; separated by commas."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Items per task (default: all).")]
FewShot = Annotated[
    int | None, typer.Option(min=0, help="Examples in the prompt (default: the task's).")
]
Chat = Annotated[bool, typer.Option(help="Use the teacher's chat template.")]
Dtype = Annotated[str, typer.Option(help=f"Number format for tasks: {', '.join(DTYPES)}.")]

OPTIONS = ("limit", "few_shot", "chat", "batch_size", "dtype")
"""What both have for tasks alone, by the names of their parameters."""


def check_harness() -> None:
    """Raise `SettingsError` unless lm-eval and what it needs are installed."""
    try:
        importlib.import_module("boomerang_core.evaluate.harness")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tasks need the package {error.name}: {install_hint('eval')}"
        ) from error


def tell(line: str) -> None:
    """What goes on, apart from the tables."""
    typer.echo(line, err=True)


def print_tasks(rows: Sequence[TaskRow]) -> None:
    """A table for each task, a line a size, within 80 columns; what a task lacks is left out."""
    for task, group in itertools.groupby(rows, key=lambda row: (row.task, row.n)):
        typer.echo("{}, n = {:,} items".format(*task))
        typer.echo(
            f"{'size':>8} {'layers':>6} {'accuracy':>13} {'to the teacher':>14} "
            f"{'nats':>8} {'to the teacher':>15} {'tokens':>6}"
        )
        for row in group:
            typer.echo(
                f"{row.size:>8} {row.layers:>6} {_with_error(row.accuracy, row.se, 13)} "
                f"{_with_error(row.difference, row.difference_se, 14, '+')} "
                f"{_plain(row.log_likelihood, 8, 2)} {_likelihood_gap(row)} "
                f"{_plain(row.tokens_per_answer, 6, 1)}".rstrip()
            )
    typer.echo("± standard error, of differences by item; nats: of the right answer, or a word")


def _likelihood_gap(row: TaskRow) -> str:
    gap, error = row.log_likelihood_difference, row.log_likelihood_difference_se
    return _with_error(gap, error, 15, "+")


def _with_error(mean: float | None, se: float | None, width: int, sign: str = "") -> str:
    text = "" if mean is None else f"{mean:{sign}.3f}"
    return f"{text if se is None else f'{text} ± {se:.3f}':>{width}}"


def _plain(value: float | None, width: int, digits: int) -> str:
    return " " * width if value is None else f"{value:{width}.{digits}f}"
