"""vLLM's CPU worker, with our runner in it; a module of its own, as it imports CPU kernels."""

from server.engine import compat
from server.engine.compat import CPUModelRunner, CPUWorker
from server.engine.routed_worker import RoutedWorker
from server.engine.runner import RoutedRunner, refuse_runner_v2


class BoomerangCPUModelRunner(RoutedRunner, CPUModelRunner):
    """The runner that carries plans, over vLLM's for the CPU."""


class BoomerangCPUWorker(RoutedWorker, CPUWorker):
    """A worker of a family of sizes."""

    def init_device(self) -> None:
        """As vLLM's, with the runner that carries plans."""
        refuse_runner_v2(self)
        with compat.cpu_runner_class(BoomerangCPUModelRunner):
            super().init_device()
