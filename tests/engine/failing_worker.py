"""A CPU worker that fails to read weights once, on one of its ranks."""

from unittest.mock import patch

from server.engine.model import BoomerangForCausalLM
from server.engine.worker_cpu import BoomerangCPUWorker


class FailingWorker(BoomerangCPUWorker):
    """The second rank has no memory for the first change of the sizes."""

    has_failed = False

    def hold_sizes(self, smallest: int, largest: int) -> int | str:
        if self.rank != 1 or self.has_failed:
            return super().hold_sizes(smallest, largest)
        self.has_failed = True
        with patch.object(BoomerangForCausalLM, "_read", side_effect=MemoryError("no memory")):
            return super().hold_sizes(smallest, largest)
