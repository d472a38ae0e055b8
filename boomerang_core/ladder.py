"""Ladders: a nested order of patch steps, from the student (size 0) to the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import LadderError

ALWAYS_TEACHER = -1
"""A rank below every size."""


@dataclass(frozen=True)
class Ladder:
    """Step *i* swaps the student layers of `steps[i]` for their teacher blocks.

    Size *k* has the first *k* steps patched.  Raises `LadderError` unless the steps, together,
    patch each of `num_blocks` blocks exactly once.
    """

    num_blocks: int
    steps: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if any(not step for step in self.steps):
            raise LadderError("every step must patch at least one block")
        patched = sorted(block for step in self.steps for block in step)
        if patched != list(range(self.num_blocks)):
            raise LadderError(
                f"the steps must patch each of {self.num_blocks} blocks once, got {patched}"
            )

    @property
    def num_sizes(self) -> int:
        """Sizes on the ladder, student and teacher included."""
        return len(self.steps) + 1

    @property
    def teacher_size(self) -> int:
        """The size at which every block is patched."""
        return len(self.steps)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """For each block, its step: block *b* is the teacher's at every size above `ranks[b]`."""
        rank_of = {block: rank for rank, step in enumerate(self.steps) for block in step}
        return tuple(rank_of[block] for block in range(self.num_blocks))

    def patched(self, size: int) -> frozenset[int]:
        """The blocks that are the teacher's at a size."""
        if not 0 <= size <= self.teacher_size:
            raise LadderError(f"sizes run from 0 to {self.teacher_size}, got {size}")
        return frozenset(block for step in self.steps[:size] for block in step)

    @classmethod
    def from_order(cls, block_map: BlockMap, order: Sequence[int]) -> Self:
        """Patch blocks in the given order, as the paper's reference code counts steps.

        Each step holds one block of several layers; one-layer blocks that the order meets on
        the way there are taken along, and those left at the end join the last step.  (Qwen3-4B,
        last to first: the first step swaps in the teacher's last four layers.)
        """
        steps: list[list[int]] = []
        waiting: list[int] = []
        for block in order:
            if not 0 <= block < len(block_map):
                raise LadderError(f"blocks run from 0 to {len(block_map) - 1}, got {block}")
            waiting.append(block)
            if len(block_map[block]) > 1:
                steps.append(waiting)
                waiting = []
        if waiting and steps:
            steps[-1] += waiting
        elif waiting:  # a teacher of one-layer blocks only: one step a block
            steps = [[block] for block in waiting]
        return cls(len(block_map), tuple(tuple(step) for step in steps))

    @classmethod
    def last_to_first(cls, block_map: BlockMap) -> Self:
        """The reference's order for Qwen and Pythia."""
        return cls.from_order(block_map, range(len(block_map) - 1, -1, -1))

    @classmethod
    def first_to_last(cls, block_map: BlockMap) -> Self:
        """The reference's order for Llama."""
        return cls.from_order(block_map, range(len(block_map)))

    def to_json(self) -> list[list[int]]:
        """The steps as lists of block indices."""
        return [list(step) for step in self.steps]

    @classmethod
    def from_json(cls, steps: Sequence[Sequence[int]]) -> Self:
        """The inverse of `to_json`."""
        return cls(sum(len(step) for step in steps), tuple(tuple(step) for step in steps))


FIXED = {"last-to-first": Ladder.last_to_first, "first-to-last": Ladder.first_to_last}
"""The orders that need no measurement, by name."""
