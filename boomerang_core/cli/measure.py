"""`evaluate` and `report`: how good the sizes of a family are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boomerang_core.cli.common import (
    Device,
    FamilyFolder,
    RowLength,
    Threads,
    Tokens,
    app,
    family_folder,
    limit_threads,
    plain_errors,
    refuse_with,
    refuse_without,
)
from boomerang_core.cli.evaluation import check_harness, evaluate_text, run_tasks
from boomerang_core.cli.task_options import OPTIONS, Chat, Dtype, FewShot, Limit, Tasks
from boomerang_core.errors import SettingsError, install_hint
from boomerang_core.evaluate.tasks import TaskSettings, named_sizes, named_tasks
from boomerang_core.family import load_family
from boomerang_core.own_teacher import require_own_teacher


@app.command()
def evaluate(
    context: typer.Context,
    family: FamilyFolder,
    text: Annotated[Path | None, typer.Option(help="Held-out text.")] = None,
    tokens: Tokens = 8192,
    row_length: RowLength = 512,
    tasks: Tasks = None,
    sizes: Annotated[
        str, typer.Option(help="Sizes for tasks: offered, all, or 17L,106m,…; always the teacher.")
    ] = "offered",
    limit: Limit = None,
    few_shot: FewShot = None,
    chat: Chat = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Items at a time; with --server, requests.")
    ] = 1,
    dtype: Dtype = "float32",
    server: Annotated[
        str | None, typer.Option(help="URL of a running server of the family, for tasks.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of finished results; a stopped run resumes from it.")
    ] = None,
    save: Annotated[bool, typer.Option(help="Save the results in the family folder.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Measure the sizes of a family: on a text of yours, and on tasks.

    On a text: KL to the teacher, top-1 agreement and perplexity of every size, and of naive
    pruning; --save makes it the family's table of sizes, with the similarity of hidden states.
    """
    with plain_errors():
        _check(text, tasks, out)
        refuse_without(context, "text", "tokens", "row_length")
        refuse_without(context, "tasks", "sizes", *OPTIONS, "server")
        refuse_with(context, "server", "dtype", *(["device"] if text is None else []))
        loaded = load_family(family_folder(family))
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


def _check(text: Path | None, tasks: str | None, out: Path | None) -> None:
    """What must go together."""
    if text is None and tasks is None:
        raise SettingsError("give --text, --tasks, or both: there is nothing to measure on")
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
        Path | None, typer.Option(help="Accuracies (default: the family's report/tasks.json).")
    ] = None,
    similarity: Annotated[
        Path | None, typer.Option(help="Cosines (default: the family's report/similarity.json).")
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
