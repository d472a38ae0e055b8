"""Which CUDA graphs a family needs.  Pure: no vLLM, no torch.

A graph is captured for a span of sizes and serves every step whose sizes lie in it.  A
span of one size runs that size's layers; a wider one runs all the layers of its largest size for
every row, and the student's beside them, and each row takes what its own size runs.  So the mix of
a step is data of the graph, not a graph of its own.
"""

from collections.abc import Iterable

from boomerang_core.memory_plan import Span

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Rows that graphs of decoding steps are captured with; a step is padded to the next."""

PROMPT_ROWS = (16, 32, 64, 128, 192, 256, 384, 512)
"""Rows that graphs of steps with prompts are captured with: few, since each is a graph for every
piece between attentions; larger steps take longer to compute than to launch."""


def spans_to_capture(offered: Iterable[int], held: Span) -> tuple[Span, ...]:
    """For each held size that is offered: a span of its own, and one from the smallest up to it."""
    tops = sorted({size for size in offered if size in held} | {held.largest})
    alone = [Span(size, size) for size in tops]
    mixed = [Span(held.smallest, size) for size in tops if size > held.smallest]
    return tuple(alone + mixed)


def span_for(captured: Iterable[Span], smallest: int, largest: int) -> Span | None:
    """The span that serves a step of sizes from one to the other and runs the least, if any."""
    fitting = [span for span in captured if smallest in span and largest in span]
    return min(fitting, key=lambda span: (span.largest, -span.smallest), default=None)


def rows_to_capture(max_num_seqs: int | None, prompts: bool) -> list[int]:
    """Rows of the graphs, in ascending order, for as many requests as run at once.

    vLLM takes those up to that number for steps that only decode, and where `prompts`, those of
    `PROMPT_ROWS` for steps with prompts.
    """
    most = ROWS[-1] if max_num_seqs is None else min(max_num_seqs, ROWS[-1])
    decoding = {*(rows for rows in ROWS if rows < most), most}
    return sorted(decoding.union(PROMPT_ROWS if prompts else ()))
