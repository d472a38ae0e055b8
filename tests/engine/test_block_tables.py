"""Joined block tables do what vLLM's do, group by group."""

import random
from typing import Any

import pytest
import torch

from server.engine.block_tables import PADDING, JoinedBlockTables, joined
from server.engine.compat import MultiGroupBlockTable

pytestmark = pytest.mark.engine

ROWS, TOKENS, BLOCK, WIDTH, GROUPS = 6, 64, 4, 8, 3


def tables(block_sizes: list[int]) -> Any:
    return MultiGroupBlockTable(
        max_num_reqs=ROWS,
        max_num_batched_tokens=TOKENS,
        pin_memory=False,
        device=torch.device("cpu"),
        block_sizes=block_sizes,
        max_num_blocks=[WIDTH] * len(block_sizes),
    )


def change(both: list[Any], generator: random.Random) -> None:
    """Rows come, grow, move, change places and go, as in a batch that serves."""

    def blocks(count: int) -> tuple[list[int], ...]:
        return tuple([generator.randrange(1, 2000) for _ in range(count)] for _ in range(GROUPS))

    calls: list[tuple[str, tuple[Any, ...]]] = [
        *(("add_row", (blocks(WIDTH - 1), row)) for row in range(ROWS)),
        ("append_row", (blocks(1), 2)),
        ("swap_row", (0, 4)),
        ("clear_row", (1,)),
        ("move_row", (ROWS - 1, 1)),
    ]
    for name, arguments in calls:
        for each in both:
            getattr(each, name)(*arguments)


@pytest.mark.parametrize("counts", [[1, 1, 1, 1, 1], [7, 1, 12, 1, 3], [28], [1]])
def test_rows_and_slots_are_those_of_separate_tables(counts: list[int]) -> None:
    generator = random.Random(len(counts))
    theirs, ours = tables([BLOCK] * GROUPS), joined(tables([BLOCK] * GROUPS))
    assert isinstance(ours, JoinedBlockTables)
    change([theirs, ours], generator)
    firsts = [generator.randrange(WIDTH * BLOCK - count) for count in counts]
    positions = torch.cat(
        [torch.arange(first, first + n) for first, n in zip(firsts, counts, strict=True)]
    )
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
    for each in (theirs, ours):
        each.commit_block_table(len(counts))
    ours.compute_slot_mapping(len(counts), starts, positions)
    owners = [row for row, count in enumerate(counts) for _ in range(count)]
    for group in range(GROUPS):
        expected, got = theirs[group], ours[group]
        rows = len(counts)
        assert torch.equal(got.get_device_tensor(rows), expected.get_device_tensor(rows))
        assert (got.get_numpy_array() == expected.get_numpy_array()).all()
        table = expected.get_numpy_array()
        slots = [
            int(table[row, place // BLOCK]) * BLOCK + place % BLOCK
            for row, place in zip(owners, positions.tolist(), strict=True)
        ]
        padding = [PADDING] * (TOKENS - len(slots))
        assert got.slot_mapping.gpu.tolist() == slots + padding


def test_cleared_tables_are_empty() -> None:
    ours = joined(tables([BLOCK] * GROUPS))
    ours.add_row(([1], [2], [3]), 0)
    ours.commit_block_table(1)
    ours.clear()
    assert not any(ours[group].get_device_tensor(ROWS).any() for group in range(GROUPS))


@pytest.mark.parametrize("block_sizes", [[BLOCK], [BLOCK, 2 * BLOCK]])
def test_one_group_or_unlike_ones_stay_vllms(block_sizes: list[int]) -> None:
    theirs = tables(block_sizes)
    assert joined(theirs) is theirs
