"""A recipe: every choice of a distillation run, typed, and the only input of its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from boomerang_core.blocks import BlockMap
from boomerang_core.distill.objective import Objective
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.settings import as_object, build
from boomerang_core.distill.settings import read_settings as read_settings
from boomerang_core.errors import BlockMapError, LadderError, SettingsError
from boomerang_core.ladder import FIXED, Ladder
from boomerang_core.route import StudentKind
from boomerang_core.sizes import FAMILY_NAME, is_family_name

LAYOUTS = ("pairs", "every-second-and-last", "first-two-then-every-second")
KEPT = ("measured", "sequential", "first")
STARTS = ("blockwise", "naive", "random")
_TEXT = (
    "teacher",
    "text",
    "text_tokens",
    "chat_share",
    "sample_tokens",
    "sample_rows",
    "sample_length",
    "seed",
)
_LISTS = {
    "layout": "blocks such as [[0],[1,2]]",
    "kept": "layers such as [0,2,4], as an option 0,2,4",
    "ladder": "steps such as [[3,2],[1,0]]",
}
_AFTER_BLOCKS = ("name", "footprint_tokens", "eval_tokens", "end_to_end")
_AFTER_TRAINING = ("name", "footprint_tokens", "eval_tokens")


@dataclass(frozen=True)
class Recipe:
    """What to make, and how.  Lengths are tokens.  ``text`` names sources (``sources.py``), and
    ``chat_share`` how much of it is chat: None is half where there is chat and other text.

    ``layout`` is one of ``LAYOUTS`` or a JSON list of blocks such as ``[[0],[1,2]]``; ``shared``
    are one-layer blocks that the student takes from the teacher as they are.  ``kept`` chooses
    the layer that a block's student starts from (``kept.py``), or is a JSON list, a layer a block.
    ``ladder`` is one of ``FIXED`` or a JSON list of steps such as ``[[3,2],[1,0]]``.  ``start``
    is what the end-to-end stage begins with: a student distilled block after block, the kept
    layers as they are, or random weights (the paper's control).  ``own_embeddings``: a full
    student that owns embedding, final norm and head, as the paper's does.  ``sinks`` is what the
    attention sinks of every fourth row count in that row's error of a block (``sinks.py``); at 0
    they count as other tokens do.
    """

    name: str
    teacher: str
    layout: str = "pairs"
    shared: tuple[int, ...] = ()
    kept: str = "measured"
    kept_tokens: int = 1024
    kind: str = "lowrank"
    rank: int = 64
    own_embeddings: bool = False
    start: str = "blockwise"
    ladder: str = "last-to-first"
    text: tuple[str, ...] = ()
    text_tokens: int = 48_000
    chat_share: float | None = None
    sample_tokens: int = 48_000
    sample_rows: int = 64
    sample_length: int = 192
    row_length: int = 512
    block_tokens: int = 16_384
    batch_rows: int = 4
    heldout_every: int = 20
    ridge: float = 0.05
    steps: int = 0
    step_rows: int = 2
    learning_rate: float = 1e-3
    sinks: float = 0.2
    end_to_end: EndToEnd = field(default_factory=EndToEnd)
    seed: int = 0
    footprint_tokens: int = 2048
    eval_tokens: int = 8192

    def __post_init__(self) -> None:
        if not is_family_name(self.name):
            raise SettingsError(f"name must be {FAMILY_NAME}, got {self.name!r}")
        _choose("kind", self.kind, [kind.value for kind in StudentKind])
        _choose("start", self.start, STARTS)
        for name, choices in (("ladder", FIXED), ("kept", KEPT), ("layout", LAYOUTS)):
            if not getattr(self, name).startswith("["):
                _choose(name, getattr(self, name), choices)
        self._check_start()
        for name in (
            "rank",
            "block_tokens",
            "sample_rows",
            "sample_length",
            "row_length",
            "batch_rows",
            "step_rows",
            "eval_tokens",
            "kept_tokens",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in ("steps", "sample_tokens", "text_tokens", "ridge", "learning_rate"):
            _at_least(name, getattr(self, name), 0)
        _at_least("heldout_every", self.heldout_every, 2)
        if not 0 <= self.sinks < 1:
            raise SettingsError(f"sinks must be at least 0 and below 1, got {self.sinks}")
        if not self.text and not self.sample_tokens:
            raise SettingsError("a recipe needs text: files, or tokens sampled from the teacher")

    def _check_start(self) -> None:
        if self.own_embeddings and self.kind != StudentKind.FULL:
            raise SettingsError(
                "own_embeddings needs kind full: a low-rank student uses the teacher's"
            )
        if self.start == "random" and self.kind != StudentKind.FULL:
            raise SettingsError("start random needs kind full: a low-rank student is a change")
        if self.start != "blockwise" and not self.end_to_end.tokens:
            raise SettingsError(
                f"start {self.start} needs end_to_end.tokens above 0: nothing else is distilled; "
                "start blockwise distils blocks alone"
            )

    @property
    def student_stream(self) -> bool:
        """Whether a block learns on the student's own stream rather than the teacher's.

        The input that a block meets most often: with last → first, every size runs student
        layers before the teacher's; with first → last, after them.
        """
        return self.ladder != "first-to-last"

    def patch_order(self, block_map: BlockMap) -> Ladder:
        """The ladder over those blocks.  Raises LadderError, SettingsError."""
        return parse_ladder(self.ladder, block_map)

    def block_map(self, num_layers: int) -> BlockMap:
        """The blocks, each with its kept layer, the first where that is measured later.

        Raises BlockMapError, SettingsError.
        """
        plain = parse_layout(self.layout, num_layers, self.shared)
        kept = _integers("kept", _json("kept", self.kept)) if self.kept.startswith("[") else None
        return BlockMap.from_layers([list(block.layers) for block in plain], kept, self.shared)

    def text_key(self, *parts: str) -> str:
        """A hash of ``parts`` and of every setting that the teacher's samples depend on."""
        return _hash(
            {name: value for name, value in self.to_json().items() if name in _TEXT}, parts
        )

    def blocks_key(self, *parts: str) -> str:
        """The same for the students of single blocks."""
        return _hash(_without(self.to_json(), _AFTER_BLOCKS), parts)

    def key(self, *parts: str) -> str:
        """The same for the finished student."""
        return _hash(_without(self.to_json(), _AFTER_TRAINING), parts)

    def to_json(self) -> dict[str, Any]:
        """Every field, by name."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``; layout, kept and ladder may be JSON lists as they are.

        Raises SettingsError for a name that it does not know, and a value of another type.
        """
        settings = {name: _as_field(name, value) for name, value in values.items()}
        if (stage := settings.get("end_to_end")) is not None:
            stage = dict(as_object(stage, "end_to_end"))
            if (objective := stage.get("objective")) is not None:
                stage["objective"] = build(Objective, as_object(objective, "objective"))
            settings["end_to_end"] = build(EndToEnd, stage)
        return build(cls, settings)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A recipe from a JSON file.  Raises SettingsError."""
        return cls.from_json(read_settings(path))


def _as_field(name: str, value: Any) -> Any:
    """A JSON list as the field holds it: as text where that may also be a name, else a tuple."""
    if not isinstance(value, list):
        return value
    return json.dumps(value, separators=(",", ":")) if name in _LISTS else tuple(value)


def _without(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _hash(settings: Mapping[str, Any], parts: tuple[str, ...]) -> str:
    text = json.dumps([settings, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_ladder(text: str, block_map: BlockMap) -> Ladder:
    """A ladder by name, or from a JSON list of steps: ``last-to-first``, ``[[3,2],[1,0]]``.

    Raises SettingsError, and LadderError where the steps do not patch every block once.
    """
    if not text.startswith("["):
        _choose("ladder", text, FIXED)
        return FIXED[text](block_map)
    ladder = Ladder.from_json(_lists("ladder", text))
    if ladder.num_blocks != len(block_map):
        raise LadderError(
            f"the ladder patches {ladder.num_blocks} blocks, there are {len(block_map)}"
        )
    return ladder


def parse_layout(text: str, num_layers: int, shared: tuple[int, ...] = ()) -> BlockMap:
    """Blocks by name, or from a JSON list such as ``[[0],[1,2]]``; each keeps its first layer.

    ``shared`` are left alone by ``pairs``.  Raises SettingsError and BlockMapError.
    """
    if text.startswith("["):
        blocks = BlockMap.from_layers(_lists("layout", text))
        if blocks.num_teacher_layers != num_layers:
            raise BlockMapError(
                f"the layout has {blocks.num_teacher_layers} layers, the teacher {num_layers}"
            )
        return blocks
    _choose("layout", text, LAYOUTS)
    if text == "every-second-and-last":
        return BlockMap.every_second_and_last(num_layers)
    if text == "first-two-then-every-second":
        return BlockMap.first_two_then_every_second(num_layers)
    return BlockMap.from_layers(pairs(num_layers, shared))


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{name} is not JSON: {error}") from error


def _lists(name: str, text: str) -> list[list[int]]:
    """A JSON list of lists of integers."""
    return [_integers(name, part) for part in _json(name, text)]


def _integers(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise SettingsError(f"{name} must list integers, got {value!r}")
    return value


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


def _choose(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        lists = f", or {_LISTS[name]}" if name in _LISTS else ""
        raise SettingsError(f"{name} must be one of {', '.join(choices)}{lists}, got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise SettingsError(f"{name} must be at least {least}, got {value}")
