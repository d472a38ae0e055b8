"""`compare`: families and baselines on the same rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boomerang_core.cli.common import Threads, app, family_folder, limit_threads, plain_errors
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family, load_family

if TYPE_CHECKING:
    from boomerang_core.evaluate.comparison import Comparison


@app.command()
def compare(
    families: Annotated[
        list[str], typer.Argument(help="Family folders or shipped names; NAME=FOLDER renames one.")
    ],
    text: Annotated[Path, typer.Option(help="Held-out text.")],
    out: Annotated[Path, typer.Option(help="The JSON file; what it has already is kept.")],
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="naive, shortgpt or laco; may be repeated; default: naive."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Text that shortgpt and laco may look at.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to score.")] = 8192,
    row_length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 512,
    calibration_tokens: Annotated[int, typer.Option(min=1, help="Tokens to look at.")] = 8192,
    seed: Annotated[int, typer.Option(help="Decides which of them.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Measure families and baselines on the same rows, against the same teacher.

    Baselines have as many layers as the sizes of the first family.  Stopped, it goes on.
    """
    with plain_errors():
        loaded = named_families(families)
        limit_threads(threads)
        from boomerang_core.devices import usable_device
        from boomerang_core.evaluate.compare import Texts
        from boomerang_core.evaluate.compare import compare as measure

        texts = Texts(text, tokens, row_length, calibration, calibration_tokens, seed)
        comparison = measure(loaded, baseline or ["naive"], texts, out, usable_device(device))
        print_comparison(comparison)


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
    widths = [max(8, len(series.name)) for series in comparison.series]
    names = (
        f"{series.name:>{width}}" for series, width in zip(comparison.series, widths, strict=True)
    )
    typer.echo(f"{'layers':>6}  {'  '.join(names)}")
    for depth in depths:
        points = (series.at(depth) for series in comparison.series)
        cells = ("" if point is None else f"{point.quality.kl:.4f}" for point in points)
        line = "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
        typer.echo(f"{depth:>6}  {line}")
    typer.echo(f"KL to {comparison.rows['teacher']}, n = {comparison.rows['n']:,} tokens")
