"""A CPU worker that takes decoding steps by masks, as CUDA graphs are captured."""

from typing import Any

from boomerang_core.residency import Span
from server.engine import compat
from server.engine.compat import CPUModelRunner, CPUWorker
from server.engine.graphs import GraphedRunner
from server.engine.routed_worker import RoutedWorker


class MaskedRunner(GraphedRunner, CPUModelRunner):
    """Takes the way of a graph in every step that decodes only."""

    masked_steps = 0

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self._spans = self._missing  # as if they had been captured

    def _replays(self, mode: Any) -> bool:
        plan = self._plan
        return plan is not None and plan.num_tokens == plan.num_requests

    def _needed(self, span: Span) -> frozenset[str]:
        return frozenset(self._running(span))

    @property
    def _runs_layers(self) -> bool:
        return True

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        self.masked_steps += self._graph is not None and self._graph.mixed
        return super()._model_forward(*args, **kwargs)


class MaskedWorker(RoutedWorker, CPUWorker):
    """A worker with that runner."""

    def init_device(self) -> None:
        with compat.cpu_runner_class(MaskedRunner):
            super().init_device()

    def masked_steps(self) -> int:
        """Steps of several sizes that were taken by masks."""
        return int(self.model_runner.masked_steps)
