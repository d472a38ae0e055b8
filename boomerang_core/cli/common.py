"""What the commands share: the app, families by name, errors as one line, the table of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from boomerang_core.contents import INDEX
from boomerang_core.errors import BoomerangError, FamilyError, SettingsError
from boomerang_core.family import Family
from boomerang_core.footprint import resident_params, teacher_params
from boomerang_core.kv_groups import kv_bytes as token_bytes
from boomerang_core.memory_plan import Residents, Span, plan_memory
from boomerang_core.sizes import SizeRow, format_bytes
from boomerang_core.versions import boomerang_version, vllm_version

JOURNEY = [
    "serve",
    "make",
    "sample",
    "import",
    "search",
    "evaluate",
    "compare",
    "report",
    "sizes",
    "verify",
    "merge",
    "pack",
    "export",
]


class Commands(typer.core.TyperGroup):
    """Commands in the order in which they are needed, not in that of their files."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Those of `JOURNEY` first; `serve` and `sample` come with the server."""
        return sorted(super().list_commands(ctx), key=JOURNEY.index)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut long words off in a narrow terminal
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"boomerang {boomerang_version()}, vLLM {vllm_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_tell_version, help="Say which this is."),
    ] = False,
) -> None:
    """Families of LLM sizes: make them, measure them, serve them."""


FAMILIES = Path(__file__).parents[1] / "families"
FamilyFolder = Annotated[
    Path, typer.Argument(help="A family folder, or the name of a shipped one.")
]
Teacher = Annotated[
    str, typer.Option(help="A folder, a GGUF file, a hub id, or package:NAME/FILE.gguf.")
]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of the text to score.")]
RowLength = Annotated[int, typer.Option(min=2, help="Tokens per row.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:1 (default: a GPU if there is one).")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all).")]


_TRY_AGAIN = 75


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's error is one line on stderr; anything else is a bug and shows.

    The exit status is 2, or 75 (EX_TEMPFAIL) where the same command may succeed later.
    """
    try:
        yield
    except BoomerangError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_TRY_AGAIN if error.may_pass else 2) from error


def family_folder(folder: Path) -> Path:
    """The folder itself, or that of the shipped family of that name.

    Raises `FamilyError` where it can only be a name, and none that is shipped.
    """
    if folder.exists() or len(folder.parts) > 1:
        return folder
    if (FAMILIES / folder).is_dir():
        return FAMILIES / folder
    shipped = ", ".join(sorted(path.name for path in FAMILIES.iterdir() if path.is_dir()))
    raise FamilyError(f"{folder} is no folder here and no shipped family; there is {shipped}")


def require_folder_place(out: Path) -> None:
    """Raise `SettingsError` where no folder can be written: before the slow part, not after it."""
    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out takes a folder, {out} is a file")
    _require_outside(out)


def require_file_place(out: Path) -> None:
    """The same for a file."""
    if out.is_dir():
        raise SettingsError(f"--out takes a file, {out} is a folder")
    _require_outside(out)


def _require_outside(out: Path) -> None:
    """No family folder is above it: with more files it is not whole; dotfiles may lie there."""
    place = out.resolve()
    for above in place.parents:
        hidden = any(part.startswith(".") for part in place.relative_to(above).parts)
        if (above / INDEX).is_file() and not hidden:
            raise SettingsError(f"{out} lies in a family folder, which holds only what it lists")


def given(context: typer.Context) -> dict[str, Any]:
    """The options that the user gave, by the names of their parameters; no defaults."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def refuse_without(context: typer.Context, needed: str, *names: str) -> None:
    """Raise `SettingsError` for an option that would do nothing, as it needs another.

    Both go by the names of their parameters.
    """
    if context.params[needed]:
        return
    for name in names:
        if name in given(context):
            raise SettingsError(f"{_option(name)} needs {_option(needed)}")


def refuse_with(context: typer.Context, present: str, *names: str) -> None:
    """Raise `SettingsError` for an option that does nothing beside another; named as above."""
    for name in names:
        if context.params[present] and name in given(context):
            raise SettingsError(f"{_option(name)} does nothing with {_option(present)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def layer_list(text: str, option: str) -> list[int]:
    """Layers such as `0,2,4`.  Raises `SettingsError`, which names the option."""
    try:
        return [int(part) for part in text.strip("[] ").split(",") if part.strip()]
    except ValueError as error:
        raise SettingsError(f"{option} must list layers such as 0,2,4, got {text!r}") from error


def limit_threads(threads: int | None) -> None:
    """Torch's threads; None leaves all."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def print_sizes(family: Family) -> None:
    """A line a size: parameters, footprint, quality; then what all of them cost together."""
    typer.echo(f"{'size':>8} {'layers':>6} {'footprint':>10} {'KL':>8} {'top-1':>6} {'ppl':>9}")
    for row in family.rows:
        typer.echo(_line(row, family.footprint_tokens))
    typer.echo(
        f"footprint: weights and KV cache of {family.footprint_tokens} tokens, "
        f"{family.shape.bytes_per_param} bytes a number"
    )
    print_resident(family)


def print_resident(family: Family) -> None:
    """What a server holds that offers every size."""
    resident = resident_params(family.shape, family.student_params)
    ratio = resident / teacher_params(family.shape)
    typer.echo(f"resident for all sizes: {resident:,} parameters, {ratio:.3f} of the teacher")


def print_holding(family: Family, budget: int, kv_bytes: int) -> None:
    """A line an offered size: what a server holds up to it, beside the KV cache, and if that fits.

    Raises `BudgetError` where no size fits.
    """
    residents = Residents.of(family)
    held = plan_memory(family, residents, budget, kv_bytes)
    tokens = kv_bytes // token_bytes(family)[-1]
    typer.echo(
        f"a server with {format_bytes(budget)}, {format_bytes(kv_bytes)} of it KV cache "
        f"({tokens} tokens), would hold up to each size:"
    )
    for row in family.table.offered:
        span = Span(held.span.smallest, row.size)
        need = residents.weight_bytes(span) + kv_bytes
        verdict = "offered" if row.size in held.span else "does not fit"
        typer.echo(f"{row.id:>8} {format_bytes(need):>10}  {verdict}")


def _line(row: SizeRow, tokens: int) -> str:
    line = f"{row.id:>8} {row.layers:>6} {format_bytes(row.footprint_bytes(tokens)):>10}"
    if row.quality is not None:
        quality = row.quality
        line += f" {quality.kl:8.4f} {quality.top1:6.3f} {quality.perplexity:9.2f}"
    return line if row.offered else f"{line}  not offered"
