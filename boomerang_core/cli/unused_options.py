"""Options of `make` that would do nothing in the recipe that they make.

Only what the user typed is refused: a preset may hold what one change of it leaves unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boomerang_core.errors import SettingsError

if TYPE_CHECKING:
    from boomerang_core.distill.recipe import Recipe

STAGE = {name: f"end_to_end.{name}" for name in ("tokens", "precision")}
"""Options of the end-to-end stage, and the fields of a recipe that they set."""

_NEEDS: Sequence[tuple[tuple[str, ...], str, Callable[[Recipe], bool]]] = (
    (("rank", "maps"), "--kind lowrank", lambda recipe: recipe.kind == "lowrank"),
    (("text_tokens", "chat_share"), "--text", lambda recipe: bool(recipe.text)),
    (
        ("sample_rows", "sample_length"),
        "--sample-tokens above 0",
        lambda recipe: recipe.sample_tokens > 0,
    ),
    (
        ("kept_tokens",),
        "--kept measured or sequential",
        lambda recipe: recipe.kept_is_measured,
    ),
    (
        ("steps", "block_tokens", "sinks", "ridge", "batch_rows", "step_rows", "learning_rate"),
        "--start blockwise",
        lambda recipe: recipe.start == "blockwise",
    ),
    (("step_rows", "learning_rate"), "--steps above 0", lambda recipe: recipe.steps > 0),
    (("end_to_end", "tensorboard"), "--tokens above 0", lambda r: r.end_to_end.tokens > 0),
)
"""Fields, the first part of their names; what they need; and whether a recipe has it."""


def typed_fields(options: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, str]:
    """Fields of a recipe that the user set, by options and by `--set`, as they were typed."""
    fields = {STAGE.get(name, name): f"--{name.replace('_', '-')}" for name in options}
    paths = [text.partition("=")[0] for text in assignments]
    return fields | {path: f"--set {path}" for path in paths}


def refuse_unused(recipe: Recipe, fields: Mapping[str, str]) -> None:
    """Raise `SettingsError` for what was typed in vain."""
    for names, needed, met in _NEEDS:
        for path, shown in fields.items():
            unused = path != STAGE["tokens"] and path.partition(".")[0] in names
            if unused and not met(recipe):
                raise SettingsError(f"{shown} needs {needed}")
