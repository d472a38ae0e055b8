"""Which rows of a step take the teacher's side, block by block.  Pure: no vLLM, no torch.

The runner orders the requests of a step by size, largest first.  Sizes are nested, so the
requests that take the teacher's side of a block are always a prefix of the step, whatever the
order of the ladder: two contiguous slices per block, and one number says where they meet.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from operator import neg

from boomerang_core.ladder import ALWAYS_TEACHER
from boomerang_core.route import FamilyDesign, Owner, build_route


@dataclass(frozen=True)
class Ranks:
    """Thresholds of a family: a part is the teacher's for every size above its rank."""

    blocks: tuple[int, ...]
    embedding: int
    head: int
    teacher_size: int

    @classmethod
    def of(cls, design: FamilyDesign) -> "Ranks":
        """Read the thresholds off the family's routes; shared blocks are always the teacher's."""
        teacher_size = design.ladder.num_sizes - 1
        routes = [build_route(design, size) for size in range(teacher_size + 1)]
        student_embedding = sum(route.embedding is Owner.STUDENT for route in routes)
        student_head = sum(route.head is Owner.STUDENT for route in routes)
        blocks = tuple(
            ALWAYS_TEACHER if block.shared else rank
            for block, rank in zip(design.block_map, design.ladder.ranks, strict=True)
        )
        return cls(blocks, student_embedding - 1, student_head - 1, teacher_size)


class Side(StrEnum):
    """The rows of a step that a layer runs on."""

    ALL = "all"
    TEACHER = "teacher"
    STUDENT = "student"


@dataclass(frozen=True)
class Rows:
    """A contiguous run of requests and of their token rows, each ``start <= i < stop``."""

    first_request: int
    last_request: int
    first_token: int
    last_token: int


@dataclass(frozen=True)
class Split:
    """The first `requests` requests, that is the first `tokens` rows, are the teacher's."""

    requests: int
    tokens: int


@dataclass(frozen=True)
class StepPlan:
    """Where each block, the embedding and the head change from teacher to student rows.

    `embedding` counts token rows, `head_tokens` token rows (final norm), `head_rows` rows of
    logits.
    """

    num_requests: int
    num_tokens: int
    blocks: tuple[Split, ...]
    embedding: int
    head_tokens: int
    head_rows: int

    def __post_init__(self) -> None:
        for split in self.blocks:
            assert 0 <= split.requests <= self.num_requests
            assert 0 <= split.tokens <= self.num_tokens

    def runs(self, block: int, side: Side) -> bool:
        """Whether any row is on that side of a block."""
        teachers = self.blocks[block].requests
        if side is Side.ALL:
            return True
        return teachers > 0 if side is Side.TEACHER else teachers < self.num_requests

    def rows(self, block: int, side: Side) -> Rows | None:
        """The rows of one side of a block; None where that is the whole step or nothing."""
        split = self.blocks[block]
        if side is Side.ALL or split.requests in (0, self.num_requests):
            return None
        if side is Side.TEACHER:
            return Rows(0, split.requests, 0, split.tokens)
        return Rows(split.requests, self.num_requests, split.tokens, self.num_tokens)


def build_plan(
    ranks: Ranks,
    sizes: Sequence[int],
    tokens: Sequence[int],
    logits_rows: Sequence[int] | None = None,
) -> StepPlan:
    """Plan a step of requests sorted by size, largest first.

    Args:
        ranks: the family's thresholds.
        sizes: the size of each request.
        tokens: the token rows of each request.
        logits_rows: the rows of logits of each request; one each where not given.
    """
    assert len(sizes) == len(tokens), "one token count per request"
    assert all(a >= b for a, b in pairwise(sizes)), "largest size first"
    token_ends = [0, *accumulate(tokens)]
    logits_ends = [0, *accumulate([1] * len(sizes) if logits_rows is None else logits_rows)]

    def above(rank: int) -> int:
        return bisect_left(sizes, -rank, key=neg)

    splits = {rank: above(rank) for rank in {*ranks.blocks, ranks.embedding, ranks.head}}
    return StepPlan(
        num_requests=len(sizes),
        num_tokens=token_ends[-1],
        blocks=tuple(Split(splits[rank], token_ends[splits[rank]]) for rank in ranks.blocks),
        embedding=token_ends[splits[ranks.embedding]],
        head_tokens=token_ends[splits[ranks.head]],
        head_rows=logits_ends[splits[ranks.head]],
    )


def largest_first(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The swaps that bring requests into order of size, largest first; few, as each is dear.

    Requests of one size may stand in any order, so one that came or went costs at most a swap for
    each size that is there, where a stable order would move everyone behind it.
    """
    has, wanted = list(sizes), sorted(sizes, reverse=True)
    result = []
    for place, size in enumerate(wanted):
        if has[place] == size:
            continue
        able = [at for at in range(place + 1, len(has)) if has[at] == size != wanted[at]]
        other = next((at for at in able if wanted[at] == has[place]), able[0])
        has[place], has[other] = has[other], has[place]
        result.append((place, other))
    return result
