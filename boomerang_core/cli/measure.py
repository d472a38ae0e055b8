"""`evaluate` and `report`: how good the sizes of a family are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boomerang_core.cli.common import (
    FamilyFolder,
    Threads,
    app,
    family_folder,
    limit_threads,
    plain_errors,
)
from boomerang_core.cli.evaluation import check_harness, evaluate_text, run_tasks
from boomerang_core.cli.task_options import Chat, Dtype, FewShot, Limit, Tasks
from boomerang_core.errors import SettingsError, install_hint
from boomerang_core.evaluate.tasks import TaskSettings, named_sizes, named_tasks
from boomerang_core.family import load_family
from boomerang_core.own_teacher import require_own_teacher

Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")
]


@app.command()
def evaluate(
    family: FamilyFolder,
    text: Annotated[Path | None, typer.Option(help="Held-out text.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of it to score.")] = 8192,
    row_length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 512,
    tasks: Tasks = None,
    sizes: Annotated[
        str, typer.Option(help="Of the tasks: offered, all, or 17L,106m,…; the teacher always.")
    ] = "offered",
    limit: Limit = None,
    few_shot: FewShot = None,
    chat: Chat = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Items at a time; requests, with --server.")
    ] = 1,
    dtype: Dtype = "float32",
    server: Annotated[
        str | None, typer.Option(help="URL of a running server of the family, for the tasks.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keeps what is finished, so that a stopped run goes on.")
    ] = None,
    save: Annotated[bool, typer.Option(help="Put it into the family folder.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Measure the sizes of a family: on a text of yours, and on tasks.

    On a text: KL to the teacher, top-1 agreement and perplexity of every size, and of naive
    pruning; --save makes it the family's table of sizes, with the similarity of hidden states.
    """
    with plain_errors():
        loaded = load_family(family_folder(family))
        _check(text, tasks, server, out)
        limit_threads(threads)
        if save:  # what is measured becomes the family's own
            require_own_teacher(loaded)
        if tasks is not None and out is not None:
            settings = TaskSettings(
                named_tasks(tasks), limit, few_shot, chat, batch_size, dtype, device, server
            )
            rows = named_sizes(loaded, sizes)
            check_harness()
        if text is not None:
            loaded = evaluate_text(loaded, text, row_length, tokens, out, save, device)
        if tasks is not None and out is not None:
            run_tasks(loaded, settings, rows, out, save)


def _check(text: Path | None, tasks: str | None, server: str | None, out: Path | None) -> None:
    """What must go together."""
    if text is None and tasks is None:
        raise SettingsError("give --text, --tasks, or both: there is nothing to measure on")
    if tasks is None and server is not None:
        raise SettingsError("--server is for --tasks; a text is measured here")
    if tasks is not None and out is None:
        raise SettingsError("give --out, a folder to keep the answers of the tasks in")


@app.command()
def report(
    family: FamilyFolder,
    out: Annotated[Path, typer.Option(help="The folder to write the page and pictures into.")],
    comparison: Annotated[
        Path | None, typer.Option(help="What `compare` wrote: ladders and baselines.")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="JSON: the student's KL against seconds, by run.")
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="Accuracies; default: the family's report/tasks.json.")
    ] = None,
    similarity: Annotated[
        Path | None, typer.Option(help="Cosines; default: the family's report/similarity.json.")
    ] = None,
    speed: Annotated[
        Path | None, typer.Option(help="JSON: tokens per second of sizes under a load.")
    ] = None,
) -> None:
    """Write a page with the sizes of a measured family: index.html and its pictures."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        try:
            from boomerang_core.evaluate.findings import Sources
            from boomerang_core.evaluate.report import write_report
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in ("matplotlib", "jinja2"):
                raise
            raise SettingsError(f"a report needs {package}: {install_hint('eval')}") from error
        sources = Sources(comparison, curves, tasks, similarity, speed)
        typer.echo(write_report(loaded, out, sources))
