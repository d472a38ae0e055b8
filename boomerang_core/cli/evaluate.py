"""`evaluate`: how good the sizes of a family are, on a text and on tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    require_folder_place,
)
from boomerang_core.cli.tasks import (
    OPTIONS,
    Chat,
    Dtype,
    FewShot,
    Limit,
    Tasks,
    check_harness,
    print_tasks,
    tell,
)
from boomerang_core.contents import SIMILARITY, TASKS
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.tasks import TaskSettings, evaluate_tasks, named_sizes, named_tasks
from boomerang_core.family import Family, load_family
from boomerang_core.own_teacher import require_own_teacher
from boomerang_core.sizes import SizeRow

if TYPE_CHECKING:
    from boomerang_core.evaluate.ladder import Measured
    from boomerang_core.text.evaluation import Sample


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
        if out is not None:
            require_folder_place(out)
            require_folder_place(out / "text")  # nor in the folder of a family itself
        loaded = load_family(family_folder(family))
        limit_threads(threads)
        if save:  # what is measured becomes the family's own
            require_own_teacher(loaded)
        if tasks is not None:  # what is wrong with them shows before the text is measured
            settings = TaskSettings(
                named_tasks(tasks), limit, few_shot, chat, batch_size, dtype, device, server
            )
            rows = named_sizes(loaded, sizes)
            check_harness()
        if text is not None:
            from boomerang_core.text.evaluation import Sample

            sample = Sample(text, tokens, row_length)
            loaded = _evaluate_text(loaded, sample, out, save, device)
        if tasks is not None:
            assert out is not None, "checked above"
            _run_tasks(loaded, settings, rows, out, save)


def _check(text: Path | None, tasks: str | None, out: Path | None) -> None:
    """What must go together."""
    if text is None and tasks is None:
        raise SettingsError("give --text, --tasks, or both: there is nothing to measure on")
    if tasks is not None and out is None:
        raise SettingsError("give --out, a folder to keep the answers of the tasks in")


def _evaluate_text(
    family: Family, sample: Sample, out: Path | None, save: bool, device: str | None
) -> Family:
    """Measure on a text and print the table; the family with what was saved."""
    from boomerang_core.devices import usable_device
    from boomerang_core.evaluate.ladder import evaluate_family
    from boomerang_core.evaluate.parts import text_parts
    from boomerang_core.evaluate.quality import evaluate_routes

    where = usable_device(device)
    measure = text_parts(family, sample, out / "text") if out else evaluate_routes
    measured = evaluate_family(family, sample, measure, where)
    if save:
        from boomerang_core.evaluate.record import save_measured
        from boomerang_core.evaluate.similarity import similarity_record

        similarity = similarity_record(family, sample, where)
        family = save_measured(family, measured, sample.text, {SIMILARITY: similarity})
    _print_text(family, measured)
    return family


def _print_text(family: Family, measured: Measured) -> None:
    typer.echo(f"{'size':>8} {'layers':>6} {'KL':>8} {'top-1':>6} {'ppl':>9} {'naive KL':>9}")
    for row, ours, naive in zip(family.rows, measured.family, measured.naive, strict=True):
        typer.echo(
            f"{row.id:>8} {row.layers:>6} {ours.kl:8.4f} {ours.top1:6.3f} "
            f"{ours.perplexity:9.2f} {naive.kl:9.4f}"
        )
    typer.echo(f"n = {measured.family[0].n:,} tokens")


def _run_tasks(
    family: Family, settings: TaskSettings, sizes: Sequence[SizeRow], out: Path, save: bool
) -> None:
    """Run the tasks and print the table."""
    rows, record = evaluate_tasks(family, settings, sizes, out, tell)
    if save:
        from boomerang_core.evaluate.record import save_report

        save_report(family, TASKS, record)
    print_tasks(rows)
