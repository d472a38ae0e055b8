"""Blocks, kept layers and ladder as a recipe has them: a name, or the text of a JSON list."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import BlockMapError, LadderError, SettingsError
from boomerang_core.ladder import FIXED, Ladder

LAYOUTS = ("pairs", "every-second-and-last", "first-two-then-every-second")
KEPT = ("measured", "sequential", "first")
CHOICES: dict[str, Collection[str]] = {"layout": LAYOUTS, "kept": KEPT, "ladder": FIXED}
LISTS = {
    "layout": "blocks such as [[0],[1,2]]",
    "kept": "layers such as [0,2,4], as an option 0,2,4",
    "ladder": "steps such as [[3,2],[1,0]]",
}


def check_choice(name: str, text: str) -> None:
    """Raise SettingsError unless that is one of the setting's names, or a JSON list."""
    if listed(name, text) is None:
        choose(name, text, CHOICES[name])


def choose(name: str, value: str, choices: Collection[str]) -> None:
    """Raise SettingsError for a value that is none of the choices."""
    if value not in choices:
        lists = f", or {LISTS[name]}" if name in LISTS else ""
        raise SettingsError(f"{name} must be one of {', '.join(choices)}{lists}, got {value!r}")


def listed(name: str, text: str) -> list[Any] | None:
    """The JSON list that a setting holds; None where it is a name.  Raises SettingsError."""
    if not text.strip().startswith("["):
        return None
    try:
        found: list[Any] = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{name} is not JSON: {error}") from error
    return found


def compact(value: Any) -> str:
    """JSON without spaces: a list as a setting and as an option's value."""
    return json.dumps(value, separators=(",", ":"))


def integers(name: str, value: Any) -> list[int]:
    """A list of whole numbers.  Raises SettingsError for anything else."""
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise SettingsError(f"{name} must list integers, got {value!r}")
    return value


def parse_ladder(text: str, block_map: BlockMap) -> Ladder:
    """A ladder by name, or from a JSON list of steps: `last-to-first`, `[[3,2],[1,0]]`.

    Raises SettingsError, and LadderError where the steps do not patch every block once.
    """
    steps = listed("ladder", text)
    if steps is None:
        choose("ladder", text, FIXED)
        return FIXED[text](block_map)
    ladder = Ladder.from_json([integers("ladder", step) for step in steps])
    if ladder.num_blocks != len(block_map):
        raise LadderError(
            f"the ladder patches {ladder.num_blocks} blocks, there are {len(block_map)}"
        )
    return ladder


def parse_layout(text: str, num_layers: int, shared: tuple[int, ...] = ()) -> BlockMap:
    """Blocks by name, or from a JSON list such as `[[0],[1,2]]`; each keeps its first layer.

    `shared` are left alone by `pairs`.  Raises SettingsError and BlockMapError.
    """
    groups = listed("layout", text)
    if groups is not None:
        blocks = BlockMap.from_layers([integers("layout", group) for group in groups])
        if blocks.num_teacher_layers != num_layers:
            raise BlockMapError(
                f"the layout has {blocks.num_teacher_layers} layers, the teacher {num_layers}"
            )
        return blocks
    choose("layout", text, LAYOUTS)
    if text == "every-second-and-last":
        return BlockMap.every_second_and_last(num_layers)
    if text == "first-two-then-every-second":
        return BlockMap.first_two_then_every_second(num_layers)
    return BlockMap.from_layers(pairs(num_layers, shared))


def pairs(num_layers: int, shared: tuple[int, ...]) -> list[list[int]]:
    """Shared layers alone, the runs between them in pairs; an odd run ends with a single layer."""
    blocks: list[list[int]] = []
    for layer in range(num_layers):
        last = blocks[-1] if blocks else []
        if len(last) == 1 and last[0] not in shared and layer not in shared:
            last.append(layer)
        else:
            blocks.append([layer])
    return blocks
