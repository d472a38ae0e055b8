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
from boomerang_core.errors import SettingsError
from boomerang_core.family import load_family


@app.command()
def evaluate(
    family: FamilyFolder,
    text: Annotated[Path, typer.Option(help="Held-out text.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to score.")] = 8192,
    row_length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 512,
    save: Annotated[bool, typer.Option(help="Make it the family's table of sizes.")] = False,
    threads: Threads = None,
) -> None:
    """Measure every size of a family, and naive pruning, on a text of yours."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        limit_threads(threads)
        from boomerang_core.evaluate.ladder import evaluate_family

        measured = evaluate_family(loaded, text, row_length, tokens)
        if save:
            from boomerang_core.evaluate.record import save_measured

            save_measured(loaded, measured, text)
        typer.echo(f"{'size':>8} {'layers':>6} {'KL':>8} {'top-1':>6} {'ppl':>9} {'naive KL':>9}")
        for row, ours, naive in zip(loaded.rows, measured.family, measured.naive, strict=True):
            typer.echo(
                f"{row.id:>8} {row.layers:>6} {ours.kl:8.4f} {ours.top1:6.3f} "
                f"{ours.perplexity:9.2f} {naive.kl:9.4f}"
            )
        typer.echo(f"n = {measured.family[0].n} tokens")


@app.command()
def report(
    family: FamilyFolder,
    out: Annotated[Path, typer.Option(help="The folder to write the page and pictures into.")],
) -> None:
    """Write a page with the sizes of a measured family: index.html and its pictures."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        try:
            from boomerang_core.evaluate.report import write_report
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in ("matplotlib", "jinja2"):
                raise
            extra = "pip install 'boomerang-llm[eval]'"
            raise SettingsError(f"a report needs {package}: {extra}") from error
        typer.echo(write_report(loaded, out))
