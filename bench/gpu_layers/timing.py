"""Interleaved timings, graphs, and the device's measured ceilings."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.gpu_layers.weights import Maker

WARM_UPS = 3
FLUSH_BYTES = 1 << 30
"""Written before each graph: empties the L2 cache, and hides the launch of the graph (0.3 ms)."""


class Graph:
    """A captured step: call it to replay."""

    def __init__(self, graph: torch.cuda.CUDAGraph, output: torch.Tensor) -> None:
        self.graph, self.output = graph, output

    def __call__(self) -> None:
        self.graph.replay()


def capture(step: Callable[[], torch.Tensor]) -> Graph:
    """Warm a step up on a side stream, then capture it; its inputs must stay where they are."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return Graph(graph, output)


@dataclass(frozen=True)
class Timings:
    """Milliseconds of one thing, round by round."""

    ms: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """Median and range in milliseconds."""
        return _summary(self.ms, "_ms")

    def over(self, other: "Timings") -> dict[str, Any]:
        """Ratio to another: of the medians; the range is of the ratios round by round."""
        ratios = [a / b for a, b in zip(self.ms, other.ms, strict=True)]
        median = statistics.median(self.ms) / statistics.median(other.ms)
        return {**_summary(ratios, ""), "median": median}


def _summary(values: Sequence[float], unit: str) -> dict[str, Any]:
    named = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name + unit: value for name, value in named.items()}, "n": len(values)}


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Timed:
    """Something to time; `launched` where the host only launches it (a graph, one kernel)."""

    run: Callable[[], object]
    launched: bool


class Clock:
    """Times runs on one device, interleaved: each round has every run once, back and forth."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        size = FLUSH_BYTES if self.cuda else 1
        self.flushed = torch.empty(size, dtype=torch.uint8, device=device)

    def measure(self, runs: Mapping[str, Timed], rounds: int) -> dict[str, Timings]:
        """Milliseconds of every run, after warm-ups."""
        for timed in runs.values():
            for _ in range(WARM_UPS):
                timed.run()
        once = self._on_gpu if self.cuda else self._on_cpu
        found: dict[str, list[float]] = {name: [] for name in runs}
        for index in range(rounds):
            for name in list(runs)[:: -1 if index % 2 else 1]:
                found[name].append(once(runs[name]))
        return {name: Timings(tuple(ms)) for name, ms in found.items()}

    def _on_cpu(self, timed: Timed) -> float:
        start = time.perf_counter()
        timed.run()
        return 1e3 * (time.perf_counter() - start)

    def _on_gpu(self, timed: Timed) -> float:
        begin, end = _event(), _event()
        torch.cuda.synchronize()
        self.flushed.zero_()
        if not timed.launched:
            torch.cuda.synchronize()  # an eager step pays for all its launches
        begin.record()
        timed.run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


@dataclass(frozen=True)
class Ceilings:
    """Measured on this device in this run: bytes and floating-point operations per second."""

    read: float
    copy: float
    flops: float

    @property
    def bandwidth(self) -> float:
        """The better of reading (a sum) and copying (bytes read plus bytes written)."""
        return max(self.read, self.copy)


@torch.inference_mode()
def measure_ceilings(clock: Clock, make: Maker, elements: int, width: int, rounds: int) -> Ceilings:
    """Sum and copy `elements` elements; multiply two `width`-square matrices."""
    source, target = make.normal(elements), make.normal(elements)
    left, right = (make.normal(width, width) for _ in range(2))
    runs = {
        "read": Timed(source.sum, launched=True),
        "copy": Timed(lambda: target.copy_(source), launched=True),
        "matmul": Timed(lambda: left @ right, launched=True),
    }
    median = {
        name: t.summary()["median_ms"] / 1e3 for name, t in clock.measure(runs, rounds).items()
    }
    read = source.nbytes
    return Ceilings(
        read / median["read"], 2 * read / median["copy"], 2 * width**3 / median["matmul"]
    )
