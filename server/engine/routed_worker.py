"""What our workers add to vLLM's on every platform.

What is called here from outside must not raise (`hold_sizes` says why).
"""

from typing import Any

from boomerang_core.memory_plan import Span
from server.engine.compat import WorkerBase
from server.engine.size_change import hold_sizes
from server.process.teardown import skip_teardown


class RoutedWorker(WorkerBase):
    """A worker of a family of sizes; stands before the platform's own among the bases."""

    def compile_or_warm_up_model(self) -> Any:
        """As vLLM's, after the segments are compiled."""
        self.model_runner.get_model().prepare()
        return super().compile_or_warm_up_model()

    def resident_bytes(self) -> int:
        """Bytes of the weights that this worker holds, each tensor counted once."""
        return int(self.model_runner.get_model().resident_bytes)

    def compile_seconds(self) -> float:
        """Seconds in which this worker compiled segments."""
        return float(self.model_runner.get_model().compile_seconds)

    def hold_sizes(self, smallest: int, largest: int) -> int | str:
        """Hold the weights of these sizes and no others; the bytes held then, or what failed."""
        return hold_sizes(self, Span(smallest, largest))

    def shutdown(self) -> None:
        """As vLLM's; the last of ours that it calls in the worker's process."""
        super().shutdown()
        skip_teardown()
