"""What the speed benchmarks send: decode-heavy and prefill-heavy batches of random prompts."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.engines import Request


@dataclass(frozen=True)
class Batch:
    """Requests: how many, tokens of each prompt, tokens of each answer.

    They are sent at once, or where one `joins` after another, at every second step.
    """

    requests: int
    prompt: int
    tokens: int
    joins: bool = False

    @property
    def crowd(self) -> str:
        """How many requests, in words."""
        return "one request alone" if self.requests == 1 else f"{self.requests} requests at once"

    def prompts(self, vocabulary: int, seed: int) -> list[list[int]]:
        """Random tokens, the same for the same seed."""
        draw = random.Random(seed)
        return [
            [draw.randrange(3, vocabulary) for _ in range(self.prompt)]
            for _ in range(self.requests)
        ]

    def at(self, sizes: Sequence[int | None], vocabulary: int, seed: int) -> list[Request]:
        """The requests, with the sizes dealt out in turn."""
        prompts = self.prompts(vocabulary, seed)
        return [(sizes[place % len(sizes)], prompt) for place, prompt in enumerate(prompts)]


BATCHES = {
    "decode 1": Batch(1, 4, 24),
    "decode 4": Batch(4, 4, 16),
    "decode 16": Batch(16, 4, 16),
    "decode 48": Batch(48, 4, 12),
    "prefill 16 x 192": Batch(16, 192, 1),
}
LONGEST = 256
MOST = max(batch.requests for batch in BATCHES.values())

LIMITS: dict[str, Any] = {
    "max_num_seqs": MOST,
    "max_model_len": LONGEST,
    "enable_prefix_caching": False,
}
"""An engine's limits in which every batch runs at once, and each prompt anew."""


def add_batches(parser: argparse.ArgumentParser, *default: str) -> None:
    """`--batch`: the names of some of them."""
    parser.add_argument("--batch", nargs="+", choices=BATCHES, default=list(default))


def batches_of(options: argparse.Namespace) -> Mapping[str, Batch]:
    """Those that `--batch` names."""
    return {name: BATCHES[name] for name in options.batch}
