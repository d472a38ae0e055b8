"""The parts of `evaluate`, and the tables that it prints; `compare` takes some."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from boomerang_core.errors import SettingsError, install_hint
from boomerang_core.evaluate.extras import SIMILARITY, TASKS
from boomerang_core.evaluate.tasks import TaskSettings, evaluate_tasks
from boomerang_core.family import Family
from boomerang_core.sizes import SizeRow

if TYPE_CHECKING:
    from boomerang_core.evaluate.items import TaskRow
    from boomerang_core.evaluate.ladder import Measured


def evaluate_text(
    family: Family,
    text: Path,
    row_length: int,
    tokens: int,
    out: Path | None,
    save: bool,
    device: str | None,
) -> Family:
    """Measure on a text and print the table; the family, as it then is."""
    from boomerang_core.devices import usable_device
    from boomerang_core.evaluate.ladder import evaluate_family
    from boomerang_core.evaluate.parts import text_parts
    from boomerang_core.evaluate.perplexity import evaluate_routes

    where = usable_device(device)
    parts = text_parts(family, text, row_length, tokens, out / "text") if out else None
    measured = evaluate_family(family, text, row_length, tokens, parts or evaluate_routes, where)
    if save:
        from boomerang_core.evaluate.record import save_measured
        from boomerang_core.evaluate.similarity import similarity_record

        similarity = similarity_record(family, text, row_length, tokens, where)
        family = save_measured(family, measured, text, {SIMILARITY: similarity})
    _print_text(family, measured)
    return family


def _print_text(family: Family, measured: Measured) -> None:
    typer.echo(f"{'size':>8} {'layers':>6} {'KL':>8} {'top-1':>6} {'ppl':>9} {'naive KL':>9}")
    for row, ours, naive in zip(family.rows, measured.family, measured.naive, strict=True):
        typer.echo(
            f"{row.id:>8} {row.layers:>6} {ours.kl:8.4f} {ours.top1:6.3f} "
            f"{ours.perplexity:9.2f} {naive.kl:9.4f}"
        )
    typer.echo(f"n = {measured.family[0].n} tokens")


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


def run_tasks(
    family: Family, settings: TaskSettings, sizes: Sequence[SizeRow], out: Path, save: bool
) -> None:
    """Run the tasks and print the table."""
    rows, record = evaluate_tasks(family, settings, sizes, out, tell)
    if save:
        from boomerang_core.evaluate.record import save_report

        save_report(family, TASKS, record)
    print_tasks(rows)


def print_tasks(rows: Sequence[TaskRow]) -> None:
    """A line for each task and size; what a task does not have is left out."""
    wide = max(len(row.task) for row in rows)
    typer.echo(
        f"{'task':<{wide}} {'size':>8} {'layers':>6} {'n':>6} {'accuracy':>15} "
        f"{'to the teacher':>16} {'nats':>8} {'to the teacher':>17} {'tokens':>7}"
    )
    for row in rows:
        typer.echo(
            f"{row.task:<{wide}} {row.size:>8} {row.layers:>6} {row.n:>6} "
            f"{_with_error(row.accuracy, row.se, 15)} "
            f"{_with_error(row.difference, row.difference_se, 16, '+')} "
            f"{_plain(row.log_likelihood, 8, 2)} {_likelihood_gap(row)} "
            f"{_plain(row.tokens_per_answer, 7, 1)}".rstrip()
        )
    typer.echo("± standard error, of differences by item; nats: of the right answer, or a word")


def _likelihood_gap(row: TaskRow) -> str:
    gap, error = row.log_likelihood_difference, row.log_likelihood_difference_se
    return _with_error(gap, error, 17, "+")


def _with_error(mean: float | None, se: float | None, width: int, sign: str = "") -> str:
    text = "" if mean is None else f"{mean:{sign}.3f}"
    return f"{text if se is None else f'{text} ± {se:.3f}':>{width}}"


def _plain(value: float | None, width: int, digits: int) -> str:
    return " " * width if value is None else f"{value:{width}.{digits}f}"
