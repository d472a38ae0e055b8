"""Which layers a student keeps: the blocks that one of their layers stands for best.

A block's damage is measured alone, with the teacher all around it and nothing distilled.  Damages
do not simply add up, and distillation heals some better than others: the layout is the best for
their sum, not of all students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from boomerang_core.blocks import Block, BlockMap
from boomerang_core.errors import SettingsError
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import Route, teacher_route
from boomerang_core.search.measure import Oracle, similarities
from boomerang_core.search.partition import candidates, cheapest_layout

BY = ("kl", "cosine")


@dataclass(frozen=True)
class LayoutChoice:
    """What a layout must be.

    `layers` is the student's depth, None the least that can be; `max_block` the longest block.
    `by` is what damage means: `kl`, the KL to the teacher with the block replaced by its kept
    layer; `cosine`, 1 less the cosine of `similarities`.  Blocks whose cosine is below `threshold`
    are not made.
    """

    layers: int | None
    max_block: int
    by: str = "kl"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise SettingsError(f"by must be one of {', '.join(BY)}, got {self.by!r}")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise SettingsError(f"threshold is a cosine, from -1 to 1, got {self.threshold}")
        if self.max_block < 2:
            raise SettingsError(f"max_block must be at least 2, got {self.max_block}")

    @property
    def needs_cosine(self) -> bool:
        """Whether it turns on cosines."""
        return self.by == "cosine" or self.threshold is not None


@dataclass(frozen=True)
class Layout:
    """Blocks, the damage and cosine of every candidate that was measured, and `kl`, the KL to the
    teacher of the student before distillation, in nats a token."""

    block_map: BlockMap
    damage: Mapping[Block, float]
    cosine: Mapping[Block, float]
    kl: float

    @property
    def total(self) -> float:
        """The damages of its blocks, added."""
        return sum(self.damage.get(block, 0.0) for block in self.block_map)


def search_layout(
    teacher: LayerRunner, oracle: Oracle, ids_RL: torch.Tensor, choice: LayoutChoice
) -> Layout:
    """The layout of least total damage.  Raises `BlockMapError` where none fits the choice."""
    num_layers = len(teacher.layers)
    blocks = candidates(num_layers, choice.max_block)
    cosine: dict[Block, float] = {}
    if choice.needs_cosine:
        stands = [(block, teacher.layers[block.kept]) for block in blocks]
        cosine = dict(zip(blocks, similarities(teacher, stands, ids_RL), strict=True))
    if (least := choice.threshold) is not None:
        blocks = [block for block in blocks if cosine[block] >= least]
    if choice.by == "cosine":
        damage = {block: 1 - cosine[block] for block in blocks}
    else:
        routes = [replaced([block], num_layers) for block in blocks]
        damage = dict(zip(blocks, oracle.kl(routes), strict=True))
    block_map = cheapest_layout(num_layers, damage, choice.layers)
    return Layout(block_map, damage, cosine, oracle.kl([replaced(block_map.blocks, num_layers)])[0])


def replaced(blocks: Sequence[Block], num_layers: int) -> Route:
    """The teacher with each of the blocks replaced by its kept layer."""
    left_out = {layer for block in blocks for layer in block.layers if layer != block.kept}
    return teacher_route(layer for layer in range(num_layers) if layer not in left_out)
