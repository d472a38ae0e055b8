"""`sizes`, `verify`, `merge`, `pack` and `export`: a family folder, checked and changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from boomerang_core.cli.common import (
    FamilyFolder,
    app,
    family_folder,
    plain_errors,
    print_holding,
    print_resident,
    print_sizes,
    refuse_without,
    require_folder_place,
)
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family, load_family, verify_family
from boomerang_core.kv_groups import kv_bytes
from boomerang_core.memory_plan import (
    DEFAULT_CONTEXT,
    LEAST_CONTEXT,
    default_kv_bytes,
    kv_bytes_for,
)
from boomerang_core.precision import AUTO, served_precision
from boomerang_core.sizes import format_bytes, parse_bytes


@app.command()
def sizes(
    context: typer.Context,
    family: FamilyFolder,
    memory_budget: Annotated[
        str | None, typer.Option(help="Show what a server with so much would offer, as 2GiB.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens per request (default: the family's)."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Concurrent requests (default: 1).")
    ] = None,
    kv_cache_bytes: Annotated[
        str | None,
        typer.Option(help="The server's, as 2GiB, instead of those two (default: its own)."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="bfloat16, float16, float32, or auto: what `serve` uses here.")
    ] = AUTO,
    merge: Annotated[
        bool, typer.Option("--merge", help="Count what `serve --merge` holds, which merges deltas.")
    ] = False,
) -> None:
    """Print the sizes of a family: parameters, footprint, quality.

    A footprint is a size's weights and the KV cache of --context times --concurrency tokens.  With
    --memory-budget also what a server would hold: weights up to each size, and its KV cache, of
    --kv-cache-bytes or for so many requests; and the command that starts it.
    """
    with plain_errors():
        refuse_without(context, "memory_budget", "kv_cache_bytes")
        precision = served_precision(dtype)
        loaded = load_family(family_folder(family)).served_in(precision.bytes_per_param)
        loaded = loaded.merged_when_read() if merge else loaded
        server = None
        if memory_budget is not None:
            budget = parse_bytes(memory_budget)
            server = _server(loaded, budget, kv_cache_bytes, tokens, concurrency)
        counted = (tokens or loaded.footprint_tokens) * (concurrency or 1)
        loaded = replace(loaded, footprint_tokens=counted)
        print_sizes(loaded)
        if server is not None:
            print_holding(loaded, server.budget, server.kv_bytes)
            typer.echo(
                f"so with: boomerang serve {family} --memory-budget {server.budget} "
                f"{server.options}--dtype {precision.dtype}{' --merge' if merge else ''}"
            )


@dataclass(frozen=True)
class _Server:
    """A server's memory budget, its KV cache, and the options of `serve` that this takes."""

    budget: int
    kv_bytes: int
    options: str = ""


def _server(
    family: Family,
    budget: int,
    stated: str | None,
    context: int | None,
    concurrency: int | None,
) -> _Server:
    """A server whose KV cache is as stated, or holds so many requests of a length, or its default.

    Counted as the server counts it.  Raises `SettingsError` for both, and for a stated one that
    cannot hold one request.
    """
    per_token = kv_bytes(family)[-1]
    if context is None and concurrency is None:
        if stated is None:
            return _Server(budget, default_kv_bytes(family, budget, per_token))
        given, needed = parse_bytes(stated), kv_bytes_for(DEFAULT_CONTEXT, 1, per_token)
        if given < needed:
            raise SettingsError(
                f"--kv-cache-bytes: {format_bytes(given)} cannot hold one request of "
                f"{DEFAULT_CONTEXT} tokens, which takes {format_bytes(needed)}"
            )
        return _Server(budget, given, f"--kv-cache-bytes {given} ")
    if stated is not None:
        raise SettingsError("give either --kv-cache-bytes or --context and --concurrency")
    length = max(context or family.footprint_tokens, LEAST_CONTEXT)
    held = kv_bytes_for(length, concurrency or 1, per_token)
    options = f"--kv-cache-bytes {held} --max-model-len {length} "
    if concurrency is not None:
        options += f"--max-num-seqs {concurrency} "
    return _Server(budget, held, options)


@app.command()
def verify(family: FamilyFolder) -> None:
    """Check every file of a family against its sha256."""
    with plain_errors():
        loaded = verify_family(family_folder(family))
        typer.echo(f"{loaded.name}: whole, {len(loaded.rows)} sizes")


@app.command()
def merge(
    family: FamilyFolder,
    out: Annotated[Path, typer.Option(help="The family folder to write.")],
    maps: Annotated[
        str, typer.Option(help="Deltas to merge: all, attention (its maps are small), or mlp.")
    ] = "all",
) -> None:
    """Merge deltas: small sizes run faster, and take more memory."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        from boomerang_core.architectures import Maps
        from boomerang_core.choices import choose
        from boomerang_core.merging import merge_family

        choose("--maps", maps, list(Maps))
        merged = merge_family(loaded, out, Maps(maps))
        print_resident(merged)
        typer.echo(f"{merged.name}, merged → {out}")


@app.command()
def pack(
    family: FamilyFolder,
    out: Annotated[Path, typer.Option(help="The family folder to write.")],
) -> None:
    """Copy a family and its teacher into one folder, to publish."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        from boomerang_core.packing import pack_family

        packed = pack_family(loaded, out)
        typer.echo(f"{packed.name}, with its teacher {packed.teacher_name} → {out}")


@app.command()
def export(
    family: FamilyFolder,
    size: Annotated[str, typer.Option(help="106m, 24L, 0.75, student or teacher.")],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to write.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Write one size as a plain checkpoint, as transformers has."""
    with plain_errors():
        loaded = load_family(family_folder(family))
        row = loaded.table.target(size)
        require_folder_place(out)
        from boomerang_core.assemble import export as export_size

        export_size(loaded, row.size, out, _dtype(dtype))
        typer.echo(f"{loaded.table.model_id(row)} → {out}")


def _dtype(name: str) -> Any:
    if name not in ("bfloat16", "float16", "float32"):
        raise SettingsError(f"dtype must be bfloat16, float16 or float32, got {name!r}")
    import torch

    return getattr(torch, name)
