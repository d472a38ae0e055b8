"""Whose rows are whose in a step: by its plan, or by data, as a CUDA graph is captured.

Legend: T rows.
"""

from dataclasses import dataclass

import torch

from boomerang_core.memory_plan import Span
from server.engine.blocks import Cut
from server.engine.plan import Ranks, StepPlan


@dataclass(frozen=True)
class Cuts:
    """The cut of the embedding, of each block, and of the final norm."""

    embedding: Cut
    blocks: tuple[Cut, ...]
    head: Cut

    @classmethod
    def of(cls, plan: StepPlan, total: int) -> "Cuts":
        """A plan's cuts, of a step of `total` rows, padding included."""

        def first(tokens: int) -> int:
            """The student's first row; padding joins the teacher where all rows are his."""
            return total if tokens == plan.num_tokens else tokens

        blocks = tuple(first(split.tokens) for split in plan.blocks)
        return cls(first(plan.embedding), blocks, first(plan.head_tokens))


@dataclass(frozen=True)
class Graphed:
    """The sizes that a graph serves, and the tensor from which it reads the size of each row."""

    span: Span
    sizes_T: torch.Tensor

    @property
    def mixed(self) -> bool:
        """Whether rows may differ in size."""
        return self.span.smallest < self.span.largest

    def cuts(self, ranks: Ranks, total: int) -> Cuts:
        """Cuts of a step of `total` rows; a mask only where rows of the span can differ."""

        def cut(rank: int) -> Cut:
            if rank < self.span.smallest:
                return total
            if rank >= self.span.largest:
                return 0
            return (self.sizes_T[:total] > rank).unsqueeze(1)

        blocks = tuple(cut(rank) for rank in ranks.blocks)
        return Cuts(cut(ranks.embedding), blocks, cut(ranks.head))
