"""What our workers add to vLLM's on every platform."""

from typing import Any

from server.engine.compat import WorkerBase
from server.engine.ending import skip_teardown
from server.engine.residency import hold_sizes


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

    def hold_sizes(self, smallest: int, largest: int) -> int:
        """Hold the weights of these sizes and no others; the bytes that are held then."""
        return hold_sizes(self, smallest, largest)

    def shutdown(self) -> None:
        """As vLLM's; the last of ours that it calls in the worker's process."""
        super().shutdown()
        skip_teardown()
