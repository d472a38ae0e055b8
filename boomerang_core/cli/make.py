"""`make`: a family from a recipe.

A preset is the recipe of a shipped family, or one of `boomerang_core/recipes`, which leaves the
teacher and the text open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from boomerang_core.cli import make_options as options
from boomerang_core.cli.common import (
    FAMILIES,
    Device,
    Threads,
    app,
    given,
    layer_list,
    limit_threads,
    plain_errors,
    print_sizes,
    require_folder_place,
)
from boomerang_core.cli.unused_options import STAGE, refuse_unused, typed_fields
from boomerang_core.errors import SettingsError
from boomerang_core.sizes import FAMILY_NAME, is_family_name

if TYPE_CHECKING:
    from boomerang_core.distill.recipe import Recipe


RECIPES = FAMILIES.parent / "recipes"


def presets() -> dict[str, Path]:
    """Recipe files by name."""
    families = {path.parent.name: path for path in FAMILIES.glob("*/recipe.json")}
    return families | {path.stem: path for path in sorted(RECIPES.glob("*.json"))}


@app.command()
def make(
    context: typer.Context,
    out: options.Out,
    preset: options.Preset = None,
    recipe: options.Recipe = None,
    teacher: options.Teacher = None,
    name: options.Name = None,
    layout: options.Layout = None,
    shared: options.Shared = None,
    kept: options.Kept = None,
    kind: options.Kind = None,
    rank: options.Rank = None,
    maps: options.Maps = None,
    own_embeddings: options.OwnEmbeddings = None,
    start: options.Start = None,
    ladder: options.Ladder = None,
    text: options.Text = None,
    text_tokens: options.TextTokens = None,
    chat_share: options.ChatShare = None,
    sample_tokens: options.SampleTokens = None,
    sample_rows: options.SampleRows = None,
    row_length: options.RowLength = None,
    steps: options.Steps = None,
    block_tokens: options.BlockTokens = None,
    tokens: options.Tokens = None,
    precision: options.Precision = None,
    eval_tokens: options.EvalTokens = None,
    seed: options.Seed = None,
    eval_text: options.EvalText = None,
    set_: options.Set = None,
    work: options.Work = None,
    tensorboard: options.Tensorboard = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Make a family: prune, distil, measure.  A stopped run resumes."""
    # Most options are fields of the recipe, and are read from the context by their names.
    with plain_errors():
        changes = [_settings(context), *map(assignment, set_ or [])]
        require_folder_place(out)
        chosen = recipe_of(preset, recipe, out, changes)
        refuse_unused(chosen, typed_fields(given(context), set_ or []))
        limit_threads(threads)
        from accelerate import PartialState

        from boomerang_core.distill.pipeline import make as make_family
        from boomerang_core.distill.processes import ending_processes

        folder = work or Path(f"{out}.work")
        with ending_processes():
            family = make_family(chosen, out, folder, eval_text, device, tensorboard)
            if PartialState().is_main_process:  # of the processes that made it, the first tells
                print_sizes(family)


def _settings(context: typer.Context) -> dict[str, Any]:
    """What the options set of a recipe: its fields go by the same names, but for two."""
    from boomerang_core.distill.recipe import Recipe

    typed = given(context)
    settings = {name: typed[name] for name in typed if name in Recipe.__dataclass_fields__}
    if "shared" in settings:
        settings["shared"] = layer_list(settings["shared"], "--shared")
    if settings.get("kept", "").strip()[:1].isdigit():
        settings["kept"] = layer_list(settings["kept"], "--kept")
    stage = {name: typed[name] for name in STAGE if name in typed}
    return {**settings, "end_to_end": stage}


def assignment(text: str) -> dict[str, Any]:
    """`end_to_end.learning_rate=3e-4` as nested settings; a value that is no JSON is a string."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise SettingsError(f"--set takes FIELD=VALUE, got {text!r}")
    try:
        settings: Any = json.loads(value)
    except ValueError:
        settings = value
    for name in reversed(path.split(".")):
        settings = {name: settings}
    assert isinstance(settings, dict)
    return settings


def recipe_of(
    preset: str | None, path: Path | None, out: Path, changes: Sequence[dict[str, Any]]
) -> Recipe:
    """A preset or recipe file with changes on top, the last one uppermost.

    A family's recipe states how much text there was; where that followed from the rest, it goes on
    following.
    """
    from boomerang_core.distill.recipe import Recipe
    from boomerang_core.distill.settings import read_settings

    if preset is not None and path is not None:
        raise SettingsError("give --preset or --recipe, not both")
    if preset is not None:
        if preset not in presets():
            raise SettingsError(f"there is no preset {preset!r}; there are {sorted(presets())}")
        path = presets()[preset]
    values = {} if path is None else read_settings(path)
    if _text_follows(values):
        del values["text_tokens"]
    for change in changes:
        values = _merged(values, change)
    if "name" not in values and not is_family_name(out.absolute().name):
        raise SettingsError(
            f"a family's name must be {FAMILY_NAME}, and its folder's is "
            f"{out.absolute().name!r}: give --name"
        )
    values.setdefault("name", out.absolute().name)
    if "teacher" not in values:
        raise SettingsError("give --teacher, or a --preset or --recipe that has one")
    return Recipe.from_json(values)


def _text_follows(values: dict[str, Any]) -> bool:
    """Whether a recipe's `text_tokens` are those that it would have if it did not state them."""
    from boomerang_core.distill.recipe import Recipe

    if "text_tokens" not in values:
        return False
    rest = {name: value for name, value in values.items() if name != "text_tokens"}
    try:
        return bool(Recipe.from_json(rest).text_tokens == values["text_tokens"])
    except SettingsError:
        return False  # no whole recipe, but what somebody chose


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, those of `above` on top."""
    both = {
        name: _merged(below[name], value)
        for name, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **both}
