"""The block tables of all KV groups as parts of one tensor: copied, and turned into slots, at once.

vLLM has a table for each group, and copies each to the device and launches a kernel on each in
every step.  A family has up to six groups (docs/decisions/0005), and around a small model's step on
a GPU it is such launches that take the time.

Legend: R requests, G groups, B blocks of a request, T tokens of a step.
"""

from typing import Any

import torch

from server.engine.compat import MultiGroupBlockTable, SlotMappingMode

PADDING = -1
"""The slot of a row that is no token's; vLLM's kernels write nothing there."""


class JoinedBlockTables(MultiGroupBlockTable):
    """vLLM's tables, that keep their rows in one buffer and their slots in another."""

    block_tables: list[Any]

    def __init__(self, tables: list[Any]) -> None:
        first, groups = tables[0], len(tables)
        rows, blocks = first.block_table.cpu.shape
        self._block_size = first.block_size
        self._blocks_RGB = first._make_buffer(rows, groups, blocks, dtype=torch.int32)
        shape = (groups, first.max_num_batched_tokens)
        slots_GT = torch.full(shape, PADDING, dtype=torch.int64, device=first.device)
        for group, table in enumerate(tables):
            for name in ("cpu", "gpu", "np"):
                setattr(table.block_table, name, getattr(self._blocks_RGB, name)[:, group])
            table.slot_mapping.gpu = slots_GT[group]
        self._slots_GT = slots_GT
        self._rows = torch.arange(rows, device=first.device)
        self.block_tables = tables

    def commit_block_table(self, num_reqs: int) -> None:
        """Copy the rows of so many requests to the device."""
        self._blocks_RGB.copy_to_gpu(num_reqs)

    def compute_slot_mapping(
        self, num_reqs: int, query_start_loc: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """The slot of every token in each group; `PADDING` in the rows behind them.

        Args:
            num_reqs: requests of the step; each has a token or more.
            query_start_loc: (R + 1,) the first token of each request, and their number.
            positions: (T,) the place of each token in its request.
        """
        tokens, rows = positions.shape[0], self._rows[:num_reqs]
        if tokens > num_reqs:
            rows = torch.repeat_interleave(rows, query_start_loc.diff(), output_size=tokens)
        blocks_TG = self._blocks_RGB.gpu[rows, :, positions // self._block_size]
        offsets_T = positions % self._block_size
        out = self._slots_GT[:, :tokens]
        torch.add(offsets_T, blocks_TG.t(), alpha=self._block_size, out=out)
        self._slots_GT[:, tokens:].fill_(PADDING)


def joined(tables: Any) -> Any:
    """The tables joined; as they are where groups differ or keep more than slots of their own."""
    each = tables.block_tables
    kinds = {(table.block_size, table.block_table.cpu.shape) for table in each}
    plain = all(
        table.slot_mapping_mode == SlotMappingMode.TOKEN_TO_KV_SLOT and table.dcp_world_size == 1
        for table in each
    )
    return JoinedBlockTables(each) if len(each) > 1 and len(kinds) == 1 and plain else tables
