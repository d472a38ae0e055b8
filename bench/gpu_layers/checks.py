"""What must hold before anything is timed, on a tiny shape in float32.

A mixed step gives each row what a step of its size alone gives it; a low-rank student gives what
the dense student with B·A merged in gives; on a GPU, a replayed graph gives what the eager step
gives.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from bench.gpu_layers.model import Cache, Rope, run_step
from bench.gpu_layers.routes import TINY, Shape, family_design, plan_step, thirds
from bench.gpu_layers.timing import capture
from bench.gpu_layers.weights import Family, Maker, make_family, make_teacher, merged
from boomerang_core.route import StudentKind

TOLERANCE = 2e-5
"""Absolute and relative; logits are of order one, and a row that goes astray differs by as much."""

ROWS = 7
LOADS = ((1, 12), (5, 5))
"""(new tokens, context) of a row: decode and prefill."""


class Case:
    """A family with inputs: runs steps from the same cache."""

    def __init__(self, family: Family, tokens: int, context: int, make: Maker) -> None:
        self.family, self.tokens, self.context = family, tokens, context
        self.cache = Cache.random(family.shape, ROWS, context, make)
        load = plan_step(family.design, [0] * ROWS, tokens, context).load
        self.rope = Rope.at_end(family.shape, load, make)
        self.ids_T = torch.randint(family.shape.vocab, (ROWS * tokens,), device=make.device)

    def bound(
        self, sizes: Sequence[int], family: Family | None = None
    ) -> Callable[[], torch.Tensor]:
        """A step from a copy of the cache, to be called once (or again: it repeats itself)."""
        family = family or self.family
        step = plan_step(family.design, sizes, self.tokens, self.context)
        cache = self.cache.clone()
        return lambda: run_step(family, step, self.ids_T, cache, self.rope)

    def mixed_sizes(self) -> list[int]:
        """Every size of the ladder, largest first."""
        return thirds(ROWS, range(self.family.design.ladder.num_sizes))

    def differences(self) -> Iterator[tuple[str, float]]:
        """Assert and report the largest absolute difference of each comparison."""
        sizes = self.mixed_sizes()
        mixed_BV = self.bound(sizes)()
        singles_SBV = {size: self.bound([size] * ROWS)() for size in set(sizes)}
        alone_BV = torch.stack([singles_SBV[size][row] for row, size in enumerate(sizes)])
        yield "mixed and single-size", _close(mixed_BV, alone_BV)
        _all_differ(list(singles_SBV.values()))
        if self.family.deltas:
            dense = merged(self.family)
            yield "low-rank and merged, mixed", _close(mixed_BV, self.bound(sizes, dense)())
            student = [0] * ROWS
            yield "low-rank and merged", _close(singles_SBV[0], self.bound(student, dense)())
        if mixed_BV.is_cuda:
            yield "graph and eager", _close(self._replayed(sizes), mixed_BV)

    def _replayed(self, sizes: Sequence[int]) -> torch.Tensor:
        """The mixed step by graph replay; the output is poisoned first."""
        graph = capture(self.bound(sizes))
        graph.output.fill_(float("nan"))
        graph()
        torch.cuda.synchronize()
        return graph.output


def _close(actual: torch.Tensor, expected: torch.Tensor) -> float:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)
    return float((actual - expected).abs().max())


def _all_differ(outputs: Sequence[torch.Tensor]) -> None:
    """Sizes that gave the same logits would make the comparison empty."""
    for index, one in enumerate(outputs):
        for other in outputs[index + 1 :]:
            if float((one - other).abs().amax(-1).min()) < 100 * TOLERANCE:
                raise AssertionError("two sizes give the same logits: the check would be empty")


@torch.inference_mode()
def check(device: torch.device, shape: Shape = TINY) -> dict[str, float]:
    """Largest absolute difference of every comparison; raises AssertionError where one is off."""
    make = Maker(device, torch.float32)
    teacher = make_teacher(shape, make)
    found = {}
    for kind in StudentKind:
        family = make_family(shape, family_design(shape, kind), teacher, make)
        for tokens, context in LOADS:
            for what, difference in Case(family, tokens, context, make).differences():
                found[f"{kind}, {tokens} new tokens: {what}"] = difference
    return found
