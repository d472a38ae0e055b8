"""vLLM's CPU worker, with our runner in it; a module of its own, as it imports CPU kernels."""

from typing import Any

from server.engine import compat
from server.engine.compat import CPUModelRunner, CPUWorker
from server.engine.routed_worker import RoutedWorker
from server.engine.runner import RoutedRunner, refuse_runner_v2


class BoomerangCPUModelRunner(RoutedRunner, CPUModelRunner):
    """The runner that carries plans, over vLLM's for the CPU."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        """As vLLM's; seeded requests in the middle of their prompt draw nothing.

        vLLM draws a token for them, throws it away and rewinds their generators, which torch's
        generators for the CPU cannot do: the engine would die of one client's request.
        """
        generators = self.input_batch.generators
        discarded = self.discard_request_mask.np
        aside = {row: each for row, each in generators.items() if discarded[row]}
        for row in aside:
            del generators[row]
        try:
            return super().sample_tokens(grammar_output)
        finally:
            generators.update(aside)


class BoomerangCPUWorker(RoutedWorker, CPUWorker):
    """A worker of a family of sizes."""

    def init_device(self) -> None:
        """As vLLM's, with the runner that carries plans."""
        refuse_runner_v2(self)
        with compat.cpu_runner_class(BoomerangCPUModelRunner):
            super().init_device()
