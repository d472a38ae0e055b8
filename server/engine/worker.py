"""vLLM's GPU worker, with our runner in it; named by string in `worker_cls`."""

from typing import Any

from server.engine.compat import GPUWorker
from server.engine.runner import BoomerangGPUModelRunner, refuse_runner_v2


class BoomerangGPUWorker(GPUWorker):  # type: ignore[misc]  # vLLM is untyped here
    """A worker of a family of sizes."""

    def _make_model_runner(self) -> Any:
        refuse_runner_v2(self)
        return BoomerangGPUModelRunner(self.vllm_config, self.device)

    def resident_bytes(self) -> int:
        """Bytes of the weights that this worker holds, each tensor counted once."""
        return int(self.model_runner.get_model().resident_bytes)
