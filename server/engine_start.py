"""The engine is loaded while the server answers already, and its endpoints are added."""

import gc
import platform
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from boomerang_core.family import Family
from boomerang_core.precision import Precision, built_for_cpu, precision_advice
from server.guard.limits import Limits
from server.load.chooser import Chooser
from server.logs import say
from server.memory.budget import vllm_share
from server.memory.cgroup import memory_left
from server.memory.fit import require_context, require_memory
from server.memory.residency import Residency
from server.metrics import Metrics
from server.process.lifecycle import Lifecycle
from server.process.loader_thread import in_thread
from server.settings import Settings


@dataclass(frozen=True)
class EngineStart:
    """What the engine of a server is loaded from, and what is told when it is there."""

    settings: Settings
    family: Family
    precision: Precision
    residency: Residency
    chooser: Chooser
    limits: Limits
    app: FastAPI
    lifecycle: Lifecycle

    async def run(self) -> None:
        """Load the engine, add its endpoints, become ready; then have it log until cancelled."""
        metrics: Metrics = self.app.state.metrics
        client = await in_thread(lambda: self._start_engine(metrics))
        from server.engine.serving import mount

        options = self.settings.vllm_options
        await mount(self.app, client, self.residency, self.chooser, metrics, self.limits, options)
        metrics.set_resident(await client.resident_bytes())
        gc.collect()
        gc.freeze()  # what is there now stays: no collection need walk through it while serving
        self.lifecycle.loaded(client)
        self._advise()
        self._say_ready(await client.compile_seconds() if self.settings.compile else None)
        await client.log_statistics()  # until the server ends

    def _start_engine(self, metrics: Metrics) -> Any:
        """Seconds of imports, then the weights.  Blocks."""
        from boomerang_core.checkpoint import check_weights, load_config, teacher_folder

        settings, plan = self.settings, self.residency.plan
        teacher_dir = teacher_folder(self.family)  # before vLLM's import: it shows at once if lost
        check_weights(teacher_dir)
        if built_for_cpu():
            require_memory(plan, settings, memory_left())
        require_context(load_config(teacher_dir), settings)
        share = vllm_share(settings, plan)
        from server.engine.client import start_engine
        from server.engine.watch import Watch

        return start_engine(
            self.family,
            teacher_dir,
            self.residency,
            Watch(self.family.table, self.chooser, metrics),
            dtype=self.precision.dtype,
            compiled=settings.compile,
            graphs=settings.cuda_graphs,
            attention_backend=settings.attention_backend,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=settings.kv_bytes // settings.tensor_parallel_size,  # of each
            tensor_parallel_size=settings.tensor_parallel_size,
            otlp_traces_endpoint=settings.otlp_traces_endpoint,
            options=settings.vllm_options,
            **share,
        )

    def _advise(self) -> None:
        """Say so where this CPU would be much faster in another number format."""
        import torch

        from boomerang_core.devices import multiplies_bfloat16

        if built_for_cpu() and platform.machine() == "x86_64":  # others' instructions: not known
            fast = multiplies_bfloat16(torch.device("cpu"))
            if (advice := precision_advice(self.settings.dtype, fast)) is not None:
                say(self.settings, advice)

    def _say_ready(self, compile_seconds: float | None) -> None:
        """Say how many sizes there are, of those that the memory budget leaves."""
        table = self.residency.policy.table
        total, offered = sum(row.offered for row in table.rows), len(table.offered)
        sizes = (
            f"{total} sizes" if offered == total else f"{offered} of {total} sizes, by its budget"
        )
        merged = ", deltas merged" if self.family.merges_deltas else ""
        compiled = "" if compile_seconds is None else f", compiled in {compile_seconds:.0f} s"
        say(self.settings, f"{self.family.name} is ready: {sizes}{merged}{compiled}")
