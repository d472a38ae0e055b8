"""A CPU worker that takes all steps by masks, as CUDA graphs are captured.

Its norms write into what they are given, as vLLM's kernel for GPUs does and that for CPUs does not.
"""

from typing import Any

import torch

from server.engine import compat
from server.engine.compat import CPUWorker, ir_ops
from server.engine.graphs import GraphedRunner
from server.engine.routed_worker import RoutedWorker
from server.engine.worker_cpu import BoomerangCPUModelRunner

IN_PLACE = "in_place"


def add_and_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's own plain form, written where its kernel writes."""
    plain = ir_ops.fused_add_rms_norm.impls["native"].impl_fn
    normed, residual = plain(x, x_residual, weight, epsilon, variance_size)
    return x.copy_(normed), x_residual.copy_(residual)


if IN_PLACE not in ir_ops.fused_add_rms_norm.impls:
    ir_ops.fused_add_rms_norm.register_impl(IN_PLACE, inplace=True)(add_and_norm)


class MaskedRunner(GraphedRunner, BoomerangCPUModelRunner):
    """Takes the way of a graph in every step, decoding or not."""

    masked_steps = 0

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self._spans = self._missing  # as if they had been captured

    def _replays(self, mode: Any) -> bool:
        return self._plan is not None

    @property
    def _runs_layers(self) -> bool:
        return True

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        self.masked_steps += self._graph is not None and self._graph.mixed
        with ir_ops.fused_add_rms_norm.set_priority([IN_PLACE, "native"]):
            return super()._model_forward(*args, **kwargs)


class MaskedWorker(RoutedWorker, CPUWorker):
    """A worker with that runner."""

    def init_device(self) -> None:
        with compat.cpu_runner_class(MaskedRunner):
            super().init_device()

    def masked_steps(self) -> int:
        """Steps of several sizes that were taken by masks."""
        return int(self.model_runner.masked_steps)
