"""vLLM's CPU worker, with our runner in it; a module of its own, as it imports CPU kernels."""

from typing import Any

from server.engine import compat
from server.engine.compat import CPUModelRunner, CPUWorker
from server.engine.ending import skip_teardown
from server.engine.residency import hold_sizes
from server.engine.runner import RoutedRunner, refuse_runner_v2


class BoomerangCPUModelRunner(RoutedRunner, CPUModelRunner):
    """The runner that carries plans, over vLLM's for the CPU."""


class BoomerangCPUWorker(CPUWorker):
    """A worker of a family of sizes."""

    def init_device(self) -> None:
        """As vLLM's, with the runner that carries plans."""
        refuse_runner_v2(self)
        with compat.cpu_runner_class(BoomerangCPUModelRunner):
            super().init_device()

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
