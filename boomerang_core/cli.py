"""The offline commands: make, evaluate, report, export, sizes, verify.

Each imports what it needs when it runs, so that ``sizes`` and ``verify`` load no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boomerang_core.errors import BoomerangError, SettingsError
from boomerang_core.family import Family, load_family
from boomerang_core.footprint import resident_params, teacher_params
from boomerang_core.sizes import SizeRow, format_bytes

if TYPE_CHECKING:
    from boomerang_core.distill.recipe import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

FAMILIES = Path(__file__).parent / "families"
FamilyFolder = Annotated[
    Path, typer.Argument(help="A family folder, or the name of a shipped one.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's error is one line on stderr and exit status 2; anything else is a bug and shows."""
    try:
        yield
    except BoomerangError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def family_folder(folder: Path) -> Path:
    """The folder itself, or that of the shipped family of that name."""
    shipped = FAMILIES / folder
    return shipped if not folder.exists() and shipped.is_dir() else folder


def preset_names() -> list[str]:
    """Shipped families that can be made again."""
    return sorted(path.parent.name for path in FAMILIES.glob("*/recipe.json"))


@app.command()
def make(
    out: Annotated[Path, typer.Option(help="The family folder to write.")],
    preset: Annotated[str | None, typer.Option(help="A shipped family's recipe.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json, as families carry it.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A folder, a GGUF file, a hub id, or package:NAME/FILE.gguf.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The family's name.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="pairs, every-second-and-last, first-two-then-every-second, or JSON blocks."
        ),
    ] = None,
    shared: Annotated[
        str | None, typer.Option(help="One-layer blocks taken from the teacher: 0,1,2,29.")
    ] = None,
    kept: Annotated[
        str | None, typer.Option(help="The layer each block starts from: measured, first.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="full or lowrank.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of a lowrank student.")] = None,
    ladder: Annotated[str | None, typer.Option(help="last-to-first or first-to-last.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="A file of text to distil on, or python-reference; may be repeated."),
    ] = None,
    text_tokens: Annotated[int | None, typer.Option(help="Tokens of that text to use.")] = None,
    sample_tokens: Annotated[
        int | None, typer.Option(help="Tokens of text that the teacher writes.")
    ] = None,
    sample_rows: Annotated[
        int | None, typer.Option(help="Prompts that it continues at once: as memory allows.")
    ] = None,
    row_length: Annotated[int | None, typer.Option(help="Tokens of a training row.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps a block.")] = None,
    block_tokens: Annotated[
        int | None, typer.Option(help="Tokens that each block learns on alone.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens to distil the whole student on; 0 leaves it out.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Matrix products of that stage: fp32 or bf16.")
    ] = None,
    eval_tokens: Annotated[int | None, typer.Option(help="Tokens to score each size on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random.")] = None,
    eval_text: Annotated[
        Path | None, typer.Option(help="Text to measure on; default: held-out documents.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where finished stages are kept; default: OUT.work.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Make a family: blocks, student, distillation, evaluation.  Stopped, it goes on."""
    given = {
        "teacher": teacher,
        "name": name,
        "layout": layout,
        "shared": None if shared is None else _layers(shared),
        "kept": kept,
        "kind": kind,
        "rank": rank,
        "ladder": ladder,
        "text": text,
        "text_tokens": text_tokens,
        "sample_tokens": sample_tokens,
        "sample_rows": sample_rows,
        "row_length": row_length,
        "steps": steps,
        "block_tokens": block_tokens,
        "eval_tokens": eval_tokens,
        "seed": seed,
    }
    with _plain_errors():
        training = {"tokens": tokens, "precision": precision}
        chosen = _recipe(preset, recipe, out, given, training)
        _limit_threads(threads)
        from boomerang_core.distill.pipeline import make as make_family

        folder = work or Path(f"{out}.work")
        _print_sizes(make_family(chosen, out, folder, eval_text, device))


def _recipe(
    preset: str | None,
    path: Path | None,
    out: Path,
    given: dict[str, Any],
    training: dict[str, Any],
) -> Recipe:
    """A preset or recipe file with the options that were given on top."""
    from boomerang_core.distill.recipe import Recipe

    if preset is not None and path is not None:
        raise SettingsError("give --preset or --recipe, not both")
    if preset is not None:
        if preset not in preset_names():
            raise SettingsError(f"there is no preset {preset!r}; there are {preset_names()}")
        path = FAMILIES / preset / "recipe.json"
    values = {} if path is None else Recipe.read(path).to_json()
    values |= {option: value for option, value in given.items() if value is not None}
    stage = {option: value for option, value in training.items() if value is not None}
    values["end_to_end"] = {**values.get("end_to_end", {}), **stage}
    values.setdefault("name", out.name)
    if "teacher" not in values:
        raise SettingsError("give --teacher, --preset or --recipe")
    return Recipe.from_json(values)


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"not a list of layers: {text}") from error


def _limit_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@app.command()
def sizes(family: FamilyFolder) -> None:
    """Print the sizes of a family: parameters, footprint, quality."""
    with _plain_errors():
        _print_sizes(load_family(family_folder(family)))


@app.command()
def verify(family: FamilyFolder) -> None:
    """Check every file of a family folder against its sha256."""
    with _plain_errors():
        loaded = load_family(family_folder(family))
        typer.echo(f"{loaded.name}: whole, {len(loaded.rows)} sizes")


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
    with _plain_errors():
        loaded = load_family(family_folder(family))
        _limit_threads(threads)
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
    with _plain_errors():
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


@app.command()
def export(
    family: FamilyFolder,
    size: Annotated[str, typer.Option(help="106m, 24L, 0.75, student or teacher.")],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to write.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Write one size as a checkpoint of its own, in the transformers format."""
    with _plain_errors():
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


def _print_sizes(family: Family) -> None:
    typer.echo(f"{'size':>8} {'layers':>6} {'footprint':>10} {'KL':>8} {'top-1':>6} {'ppl':>9}")
    for row in family.rows:
        typer.echo(_line(row, family.footprint_tokens))
    typer.echo(f"footprint: weights and KV cache of {family.footprint_tokens} tokens")
    resident = resident_params(family.shape, family.student_params)
    ratio = resident / teacher_params(family.shape)
    typer.echo(f"resident for all sizes: {resident:,} parameters, {ratio:.3f} of the teacher")


def _line(row: SizeRow, tokens: int) -> str:
    line = f"{row.id:>8} {row.layers:>6} {format_bytes(row.footprint_bytes(tokens)):>10}"
    if row.quality is not None:
        quality = row.quality
        line += f" {quality.kl:8.4f} {quality.top1:6.3f} {quality.perplexity:9.2f}"
    return line if row.offered else f"{line}  not offered"
