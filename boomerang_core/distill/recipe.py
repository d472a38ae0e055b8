"""A recipe: every choice of a distillation run, typed, and the only input of its results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from boomerang_core.architectures import Maps
from boomerang_core.blocks import BlockMap
from boomerang_core.choices import (
    CHOICES,
    LISTS,
    check_choice,
    choose,
    compact,
    integers,
    listed,
    parse_ladder,
    parse_layout,
)
from boomerang_core.distill.objective import Objective
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.settings import as_object, build, read_settings
from boomerang_core.errors import SettingsError
from boomerang_core.footprint import FOOTPRINT_TOKENS
from boomerang_core.ladder import Ladder
from boomerang_core.route import StudentKind
from boomerang_core.sizes import FAMILY_NAME, is_family_name

STARTS = ("blockwise", "naive", "random")
_TEXT = (
    "teacher",
    "text",
    "text_tokens",
    "chat_share",
    "document_ends",
    "sample_tokens",
    "sample_rows",
    "sample_length",
    "heldout_every",
    "heldout_tokens",
    "seed",
)
_AFTER_BLOCKS = ("name", "footprint_tokens", "eval_tokens", "end_to_end")
_AFTER_TRAINING = ("name", "footprint_tokens", "eval_tokens")
_AT_LEAST = {
    0: ("steps", "sample_tokens", "text_tokens", "learning_rate"),
    1: (
        *("rank", "block_tokens", "batch_rows", "step_rows", "kept_tokens", "sample_rows"),
        *("sample_length", "eval_tokens", "footprint_tokens", "heldout_tokens"),
    ),
    2: ("row_length", "heldout_every"),  # a row's first token is not scored
}
"""The least that settings may be."""


@dataclass(frozen=True)
class Recipe:
    """What to make, and how.  Lengths are in tokens.

    `text` names sources (`text/sources.py`), and `chat_share` is how much of it is chat: None is
    half where there is chat and other text.  `document_ends`: the end token follows each raw
    document of a source.

    `rank` and `maps` are of a low-rank student: its deltas', and which linear maps have one, all
    or the MLP's.

    `layout` and `ladder` are names or JSON lists (`choices.py`); `shared` are one-layer
    blocks that the student takes from the teacher as they are.  `kept` chooses the layer that a
    block's student starts from (`kept.py`), or is a JSON list, a layer a block.  `start` is
    what the end-to-end stage begins with: a student distilled block after block, the kept layers
    as they are, or random weights (the paper's control).  `own_embeddings`: a full student that
    owns embedding, final norm and head, as the paper's does.  `sinks` is what the attention
    sinks of every fourth row count in that row's error of a block (`sinks.py`); at 0 they count
    as other tokens do.  Each `heldout_every`-th document is held out, until those of the sources
    have `heldout_tokens`.
    """

    name: str
    teacher: str
    layout: str = "pairs"
    shared: tuple[int, ...] = ()
    kept: str = "measured"
    kept_tokens: int = 1024
    kind: str = "lowrank"
    rank: int = 64
    maps: str = Maps.ALL.value
    own_embeddings: bool = False
    start: str = "blockwise"
    ladder: str = "last-to-first"
    text: tuple[str, ...] = ()
    text_tokens: int = 48_000
    chat_share: float | None = None
    document_ends: bool = True
    sample_tokens: int = 48_000
    sample_rows: int = 64
    sample_length: int = 192
    row_length: int = 512
    block_tokens: int = 16_384
    batch_rows: int = 4
    heldout_every: int = 20
    heldout_tokens: int = 1_000_000
    ridge: float = 0.05
    steps: int = 0
    step_rows: int = 2
    learning_rate: float = 1e-3
    sinks: float = 0.2
    end_to_end: EndToEnd = field(default_factory=EndToEnd)
    seed: int = 0
    footprint_tokens: int = FOOTPRINT_TOKENS
    eval_tokens: int = 8192

    def __post_init__(self) -> None:
        if not is_family_name(self.name):
            raise SettingsError(f"name must be {FAMILY_NAME}, got {self.name!r}")
        choose("kind", self.kind, [kind.value for kind in StudentKind])
        choose("start", self.start, STARTS)
        choose("maps", self.maps, (Maps.ALL, Maps.MLP))  # a block's first fit is of its down map
        for name in CHOICES:
            check_choice(name, getattr(self, name))
        self._check_start()
        self._check_text()
        for least, names in _AT_LEAST.items():
            for name in names:
                _require_at_least(name, getattr(self, name), least)
        if not self.ridge > 0:
            raise SettingsError(f"ridge must be above 0, got {self.ridge}")
        if not 0 <= self.sinks < 1:
            raise SettingsError(f"sinks must be at least 0 and below 1, got {self.sinks}")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")

    def _check_text(self) -> None:
        if not self.text and not self.sample_tokens:
            raise SettingsError("a recipe needs text: files, or tokens sampled from the teacher")
        if self.text and not self.text_tokens:
            raise SettingsError(
                f"text_tokens is 0, so that nothing of {self.text[0]} would be read: "
                "give some, or leave text out (--set text=[])"
            )

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

    def student_stream(self, block_map: BlockMap) -> bool:
        """Whether a block learns on the student's own stream rather than the teacher's.

        The input that a block meets most often: with last → first, every size runs student
        layers before the teacher's; with first → last, after them.  Raises as `patch_order`.
        """
        ranks = list(self.patch_order(block_map).ranks)
        return ranks != sorted(ranks) or len(set(ranks)) == 1  # alone, the student has its own

    @property
    def enough_text(self) -> int:
        """Tokens of text with which no stage sees a token twice, beside what the teacher writes.

        A part of all is held out.  Never fewer than the default.
        """
        needed = max(self.end_to_end.tokens, self.block_tokens)
        every = self.heldout_every
        in_share = math.ceil(needed * every / (every - 1)) - self.sample_tokens
        written = self.sample_tokens - math.ceil(self.sample_tokens / every)
        at_most = needed + self.heldout_tokens - written
        return max(Recipe.text_tokens, min(in_share, at_most))

    @property
    def kept_is_measured(self) -> bool:
        """Whether the layer that a block keeps is chosen by measuring (`kept.py`)."""
        return self.kept in ("measured", "sequential")

    def patch_order(self, block_map: BlockMap) -> Ladder:
        """The ladder over those blocks.  Raises LadderError, SettingsError."""
        return parse_ladder(self.ladder, block_map)

    def block_map(self, num_layers: int) -> BlockMap:
        """The blocks, each with its kept layer, the first where that is measured later.

        Raises BlockMapError, SettingsError.
        """
        plain = parse_layout(self.layout, num_layers, self.shared)
        kept = listed("kept", self.kept)
        layers = None if kept is None else integers("kept", kept)
        return BlockMap.from_layers([list(block.layers) for block in plain], layers, self.shared)

    def text_key(self, *parts: str) -> str:
        """A hash of `parts` and of every setting that the teacher's samples depend on."""
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
        """The inverse of `to_json`; layout, kept and ladder may be JSON lists as they are.

        Where `end_to_end.tokens` are stated and `text_tokens` are not, these follow: without
        enough text the stage would see the same few rows over and over.
        Raises SettingsError for a name that it does not know, and a value of another type.
        """
        settings = {name: _as_field(name, value) for name, value in values.items()}
        if (stage := settings.get("end_to_end")) is not None:
            stage = dict(as_object(stage, "end_to_end"))
            if (objective := stage.get("objective")) is not None:
                stage["objective"] = build(Objective, as_object(objective, "objective"))
            settings["end_to_end"] = build(EndToEnd, stage)
        recipe = build(cls, settings)
        follows = recipe.text and "text_tokens" not in settings and "tokens" in (stage or {})
        return replace(recipe, text_tokens=recipe.enough_text) if follows else recipe

    @classmethod
    def read(cls, path: Path) -> Self:
        """A recipe from a JSON file.  Raises SettingsError."""
        return cls.from_json(read_settings(path))


def _as_field(name: str, value: Any) -> Any:
    """A JSON list as the field holds it: as text where that may also be a name, else a tuple."""
    if not isinstance(value, list):
        return value
    return compact(value) if name in LISTS else tuple(value)


def _without(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _hash(settings: Mapping[str, Any], parts: tuple[str, ...]) -> str:
    text = json.dumps([settings, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_at_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # nor is it NaN
        raise SettingsError(f"{name} must be at least {least}, got {value}")
