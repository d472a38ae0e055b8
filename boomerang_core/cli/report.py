"""`report`: a page with the sizes of a measured family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boomerang_core.cli.common import FamilyFolder, app, family_folder, plain_errors
from boomerang_core.errors import SettingsError, install_hint
from boomerang_core.family import load_family


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
    """Write a page about a measured family: index.html, pictures."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        try:
            from boomerang_core.report.findings import GivenFiles
            from boomerang_core.report.page import write_report
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in ("matplotlib", "jinja2"):
                raise
            raise SettingsError(f"a report needs {package}: {install_hint('eval')}") from error
        given = GivenFiles(comparison, curves, tasks, similarity, speed)
        typer.echo(write_report(loaded, out, given))
