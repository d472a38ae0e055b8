"""vLLM's GPU worker, with our runner in it; named by string in `worker_cls`."""

from typing import Any

from server.engine.compat import GPUWorker
from server.engine.graphs import GraphedRunner
from server.engine.routed_worker import RoutedWorker
from server.engine.runner import refuse_runner_v2


class BoomerangGPUWorker(RoutedWorker, GPUWorker):
    """A worker of a family of sizes."""

    def _make_model_runner(self) -> Any:
        refuse_runner_v2(self)
        return GraphedRunner(self.vllm_config, self.device)
