"""`make`: a family from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boomerang_core.cli.common import (
    FAMILIES,
    Threads,
    app,
    limit_threads,
    plain_errors,
    print_sizes,
)
from boomerang_core.errors import SettingsError

if TYPE_CHECKING:
    from boomerang_core.distill.recipe import Recipe


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
    with plain_errors():
        training = {"tokens": tokens, "precision": precision}
        chosen = recipe_of(preset, recipe, out, given, training)
        limit_threads(threads)
        from boomerang_core.distill.pipeline import make as make_family

        folder = work or Path(f"{out}.work")
        print_sizes(make_family(chosen, out, folder, eval_text, device))


def recipe_of(
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
