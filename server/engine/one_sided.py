"""Where attention layers that one side runs keep keys and values, in a graph of mixed sizes.

Legend: T rows, G KV groups, A attention layers that only one side runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from server.engine.plan import Side

NOWHERE = 0
"""A slot of vLLM's null block, which no request holds; a CPU's kernel does not take its -1."""


@dataclass(frozen=True)
class OneSided:
    """Attention layers that only one side runs; in a mixed graph they run on every row.

    Each writes the keys and values of its own rows only: a student's layer shares pages with the
    teacher's that its block keeps, and a request holds no blocks for layers beyond its size.
    """

    names: Sequence[str]
    groups_A: torch.Tensor
    ranks_A1: torch.Tensor
    teachers_A1: torch.Tensor
    slots_AT: torch.Tensor

    @classmethod
    def of(
        cls, sides: Mapping[str, tuple[int, Side]], group_of: Mapping[str, int], slots_AT: Any
    ) -> "OneSided":
        """What reads `slots_AT`, a row for each layer.

        `sides`: attention layer → the rank of its block, and whose rows it runs on; `group_of`:
        attention layer → its KV group.
        """
        place = slots_AT.device
        groups = torch.tensor([group_of[name] for name in sides], device=place, dtype=torch.int64)
        ranks = torch.tensor([rank for rank, _ in sides.values()], device=place)
        teachers = torch.tensor([side is Side.TEACHER for _, side in sides.values()], device=place)
        return cls(tuple(sides), groups, ranks.unsqueeze(1), teachers.unsqueeze(1), slots_AT)

    def fill(self, by_group: Iterable[torch.Tensor], sizes_T: torch.Tensor) -> None:
        """Write the KV slots of each layer; `NOWHERE` in rows that are not its own."""
        if self.names:
            slots_AT = torch.stack(tuple(by_group))[self.groups_A]
            others_AT = (sizes_T > self.ranks_A1) != self.teachers_A1
            self.slots_AT[:, : len(sizes_T)] = slots_AT.masked_fill_(others_AT, NOWHERE)

    def clear(self) -> None:
        """No layer writes anywhere: while a graph is captured, pages hold what requests keep."""
        self.slots_AT.fill_(NOWHERE)

    def by_layer(self, rows: int) -> dict[str, torch.Tensor]:
        """Where each layer finds its slots."""
        return dict(zip(self.names, self.slots_AT[:, :rows], strict=True))
