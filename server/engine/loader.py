"""From a family folder to the arguments of a vLLM engine, and back inside vLLM's processes.

vLLM reads the teacher's own folder; an override of its config names the routed model and carries
the family's design and the student's folder as one JSON string (vLLM applies dictionaries only
to sub-configs).  So nothing is copied and no folder is generated.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint_files import weight_files
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family
from boomerang_core.headers import tensor_shapes
from boomerang_core.ladder import Ladder
from boomerang_core.memory_plan import Span, whole
from boomerang_core.route import FamilyDesign, StudentKind
from server.engine import ARCHITECTURE, compat
from server.engine.admission import admission_name
from server.engine.architectures import engine_architecture
from server.engine.graph_spans import rows_to_capture

CONFIG_KEY = "boomerang"
"""Attribute of the Hugging Face config that carries the family into vLLM's processes."""

_OURS = frozenset(
    {
        "model",
        "hf_overrides",
        "worker_cls",
        "scheduler_cls",
        "logits_processors",
        "enforce_eager",
        "compilation_config",
        "load_format",
        "trust_remote_code",
    }
)
_UNSUPPORTED = frozenset({"speculative_config", "enable_lora", "enable_prompt_embeds"})


def engine_arguments(
    family: Family,
    teacher_dir: Path,
    sizes: Span | None = None,
    compiled: bool = False,
    graphs: bool | None = None,
    **limits: Any,
) -> dict[str, Any]:
    """The keyword arguments for `vllm.LLM` or `vllm.AsyncEngineArgs` that serve a family.

    Args:
        family: the family, loaded and verified.
        teacher_dir: the teacher as a Hugging Face folder (config, tokenizer, safetensors).
        sizes: those to load the weights of; None: every one.
        compiled: compile the segments between sizes (`segments.py`) instead of running eagerly.
        graphs: replay CUDA graphs (`graphs.py`); None: where there is a GPU.
        **limits: further vLLM arguments: `max_model_len`, `max_num_seqs`, `dtype`,
            `kv_cache_memory_bytes`, `tensor_parallel_size`, …

    Raises `ArchitectureError` where vLLM lacks the teacher's architecture, and `SettingsError`
    where `limits` names an argument that is ours to set or that a routed model cannot serve with,
    or where there is no compiler for `compiled` on a CPU or no GPU for `graphs`.
    """
    on_cpu = compat.platform() == "cpu"
    engine_architecture(family.architecture)
    _refuse_arguments(limits)
    if compiled and on_cpu:
        _require_compiler()
    if graphs and on_cpu:
        raise SettingsError("cuda_graphs needs a GPU")
    graphs = not on_cpu if graphs is None else graphs
    ahead = bool(limits.get("async_scheduling", not on_cpu))  # on a CPU, vLLM 0.32 never does
    return {
        "served_model_name": family.name,
        **limits,
        "async_scheduling": ahead,
        "model": str(teacher_dir),
        "hf_overrides": _config_overrides(family, sizes or whole(family.design), compiled),
        "load_format": "safetensors",  # left to itself, vLLM falls back to pickled weights
        "trust_remote_code": False,
        "worker_cls": _worker_class(),
        "scheduler_cls": f"server.engine.scheduler.Boomerang{'Async' if ahead else ''}Scheduler",
        "logits_processors": [admission_name(family.design.ladder.num_sizes - 1)],
        **_graph_arguments(graphs, limits.get("max_num_seqs")),
        **_attention_arguments(limits),
    }


def _refuse_arguments(limits: Mapping[str, Any]) -> None:
    """Raise `SettingsError` for arguments that are ours to set, or that no family can have."""
    if clash := sorted(limits.keys() & _OURS):
        raise SettingsError(f"{clash[0]} is set by the family and cannot be given")
    if refused := sorted(name for name in limits.keys() & _UNSUPPORTED if limits[name]):
        raise SettingsError(f"{refused[0]} is not supported with a family of sizes")
    if limits.get("pipeline_parallel_size", 1) != 1:
        raise SettingsError("pipeline parallel is not supported with a family of sizes")


def _graph_arguments(graphs: bool, max_num_seqs: int | None) -> dict[str, Any]:
    """vLLM captures steps and never compiles: it would bake one size in.

    Steps with prompts only where it breaks graphs at attention (`graphs.BREAKS`).
    """
    if not graphs:
        return {"enforce_eager": True}
    prompts = compat.is_breakable_cudagraph_enabled()
    config = {
        "mode": 0,
        "cudagraph_mode": "FULL_AND_PIECEWISE" if prompts else "FULL_DECODE_ONLY",
        "cudagraph_capture_sizes": rows_to_capture(max_num_seqs, prompts),
    }
    return {"enforce_eager": False, "compilation_config": config}


def _attention_arguments(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The attention backend, where vLLM would choose one that no family can be served with.

    On GPUs of compute capability 10 that is FlashInfer's, which orders the batch itself.  Next in
    vLLM's order is FlashAttention, and in float32, which that lacks, Triton's.
    """
    config = limits.get("attention_config") or {}
    in_config = config.get("backend") if isinstance(config, Mapping) else config.backend
    if in_config or limits.get("attention_backend"):
        return {}
    capability = compat.current_platform.get_device_capability()
    if capability is None or capability.major != 10:
        return {}
    is_float32 = str(limits.get("dtype")) in ("float32", "float", "torch.float32")
    return {"attention_backend": "TRITON_ATTN" if is_float32 else "FLASH_ATTN"}


def _require_compiler() -> None:
    """torch.compile writes C++ for a CPU.  For a GPU it writes Triton, which needs C only."""
    name = os.environ.get("CXX") or "g++"
    if shutil.which(name) is None:
        raise SettingsError(f"compile needs a C++ compiler, and there is no {name}")


def _worker_class() -> str:
    if compat.platform() == "cpu":
        return "server.engine.worker_cpu.BoomerangCPUWorker"
    return "server.engine.worker.BoomerangGPUWorker"


def _config_overrides(family: Family, sizes: Span, compiled: bool) -> dict[str, Any]:
    design = family.design
    carried = {
        "architecture": family.architecture,
        "student": str(family.student_dir.resolve()),
        "kind": design.kind.value,
        "merges_deltas": family.merges_deltas,
        "own_embeddings": design.own_embeddings,
        "blocks": design.block_map.to_json(),
        "ladder": design.ladder.to_json(),
        "sizes": [sizes.smallest, sizes.largest],
        "offered": [row.size for row in family.rows if row.offered],
        "compiled": compiled,
    }
    return {"architectures": [ARCHITECTURE], CONFIG_KEY: json.dumps(carried)}


def carried(hf_config: Any) -> Mapping[str, Any]:
    """What `engine_arguments` put into the config; `SettingsError` where it is not there."""
    text = getattr(hf_config, CONFIG_KEY, None)
    if not isinstance(text, str):
        raise SettingsError("the engine was not started with engine_arguments()")
    record: Mapping[str, Any] = json.loads(text)
    return record


def design_of(hf_config: Any) -> FamilyDesign:
    """The family's design, out of the config that vLLM hands to its processes."""
    record = carried(hf_config)
    return FamilyDesign(
        BlockMap.from_json(record["blocks"]),
        Ladder.from_json(record["ladder"]),
        StudentKind(record["kind"]),
        bool(record["own_embeddings"]),
    )


def student_shapes(student_dir: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every student tensor, from the file headers alone.

    Raises `CheckpointError` where the folder holds no safetensors file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(student_dir):
        shapes |= tensor_shapes(file)
    return shapes
