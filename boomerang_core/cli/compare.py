"""`compare`: families and baselines on the same rows of text and the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boomerang_core.cli.common import (
    Device,
    RowLength,
    Seed,
    Threads,
    Tokens,
    app,
    family_folder,
    limit_threads,
    plain_errors,
    refuse_without,
    require_file_place,
)
from boomerang_core.cli.tasks import (
    OPTIONS,
    Chat,
    Dtype,
    FewShot,
    Limit,
    Tasks,
    check_harness,
    tell,
)
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.tasks import TaskSettings, named_tasks
from boomerang_core.family import Family, load_family

if TYPE_CHECKING:
    from boomerang_core.compare.comparison import Comparison


@app.command()
def compare(
    context: typer.Context,
    families: Annotated[
        list[str], typer.Argument(help="Family folders or shipped names; NAME=FOLDER renames one.")
    ],
    text: Annotated[Path, typer.Option(help="Held-out text.")],
    out: Annotated[Path, typer.Option(help="The JSON file; existing results are kept.")],
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="naive, shortgpt or laco; may be repeated (default: naive)."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Calibration text for shortgpt and laco.")
    ] = None,
    tokens: Tokens = 8192,
    row_length: RowLength = 512,
    calibration_tokens: Annotated[int, typer.Option(min=1, help="Tokens of that text.")] = 8192,
    seed: Seed = 0,
    tasks: Tasks = None,
    limit: Limit = None,
    few_shot: FewShot = None,
    chat: Chat = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Items at a time.")] = 1,
    dtype: Dtype = "float32",
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Measure families and baselines on the same rows.

    All have the same teacher.  Baselines have as many layers as the sizes of the first family.
    With --tasks, every size of all of them answers the same items too.  A stopped run resumes.
    """
    with plain_errors():
        refuse_without(context, "tasks", *OPTIONS)
        refuse_without(context, "calibration", "calibration_tokens", "seed")
        require_file_place(out)
        loaded = named_families(families)
        settings = None
        if tasks is not None:
            settings = TaskSettings(named_tasks(tasks), limit, few_shot, chat, batch_size, dtype)
            check_harness()
        limit_threads(threads)
        from boomerang_core.compare.run import Texts
        from boomerang_core.compare.run import compare as measure
        from boomerang_core.devices import usable_device
        from boomerang_core.text.evaluation import Sample

        sample = Sample(text, tokens, row_length)
        texts = Texts(sample, calibration, calibration_tokens, seed)
        where = usable_device(device)
        comparison = measure(loaded, baseline or ["naive"], texts, out, where, settings, tell)
        print_comparison(comparison)
        print_scores(comparison)


def named_families(arguments: Sequence[str]) -> dict[str, Family]:
    """Families by what the comparison calls them: `NAME=FOLDER`, or their own names."""
    found: dict[str, Family] = {}
    for argument in arguments:
        given, equals, folder = argument.rpartition("=")
        if Path(argument).is_dir() or not equals:
            given, folder = "", argument
        family = load_family(family_folder(Path(folder)))
        name = given or family.name
        if name in found:
            raise SettingsError(f"two families are called {name!r}: rename one, as NAME=FOLDER")
        found[name] = family
    return found


def print_comparison(comparison: Comparison) -> None:
    """KL to the teacher: a row for each number of layers, a column a series."""
    depths = sorted({point.layers for series in comparison.series for point in series.points})
    names = [series.name for series in comparison.series]
    cells = [
        ["" if point is None else f"{point.quality.kl:.4f}" for point in points]
        for points in ([series.at(depth) for series in comparison.series] for depth in depths)
    ]
    _print_table(names, depths, cells)
    typer.echo(f"KL to {comparison.rows['teacher']}, n = {comparison.rows['n']:,} tokens")


def print_scores(comparison: Comparison) -> None:
    """A table for each task: a row for each number of layers, a column a series."""
    if comparison.tasks is None:
        return
    for table in comparison.tasks.tables([series.name for series in comparison.series]):
        typer.echo()
        _print_table(table.names, table.depths, table.cells)
        typer.echo(f"{table.title}, n = {table.n:,} items")


def _print_table(
    names: Sequence[str], depths: Sequence[int], cells: Sequence[Sequence[str]]
) -> None:
    widths = [max(8, *map(len, column)) for column in zip(names, *cells, strict=True)]
    for first, line in [("layers", names), *zip(depths, cells, strict=True)]:
        shown = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        typer.echo(f"{first:>6}  {'  '.join(shown)}".rstrip())
