"""`sizes`, `verify` and `export`: what a family folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boomerang_core.cli.common import FamilyFolder, app, family_folder, plain_errors, print_sizes
from boomerang_core.errors import SettingsError
from boomerang_core.family import load_family


@app.command()
def sizes(family: FamilyFolder) -> None:
    """Print the sizes of a family: parameters, footprint, quality."""
    with plain_errors():
        print_sizes(load_family(family_folder(family)))


@app.command()
def verify(family: FamilyFolder) -> None:
    """Check every file of a family folder against its sha256."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        typer.echo(f"{loaded.name}: whole, {len(loaded.rows)} sizes")


@app.command()
def export(
    family: FamilyFolder,
    size: Annotated[str, typer.Option(help="106m, 24L, 0.75, student or teacher.")],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to write.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Write one size as a checkpoint of its own, in the transformers format."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        row = loaded.table.target(size)
        from boomerang_core.assemble import export as export_size

        export_size(loaded, row.size, out, _dtype(dtype))
        typer.echo(f"{loaded.table.model_id(row)} → {out}")


def _dtype(name: str) -> Any:
    import torch

    if name not in ("bfloat16", "float16", "float32"):
        raise SettingsError(f"dtype must be bfloat16, float16 or float32, got {name!r}")
    return getattr(torch, name)
