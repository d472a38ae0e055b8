"""What vLLM reads from the environment, set before vLLM is imported."""

import os
from pathlib import Path

from boomerang_core.checkpoint import cache_root
from server.settings import Settings


def prepare_environment(settings: Settings, logging_config: Path | None) -> None:
    """Set what vLLM reads from the environment, before vLLM is imported.

    `logging_config` is the file that its processes set up their logging from, where not vLLM's own.
    No usage statistics leave the machine.  Engine processes are spawned: forking a process that
    already runs threads can deadlock the child.  Plans are carried by model runner V1, where vLLM
    would take V2 on a GPU (docs/decisions/0006-model-runner-v1.md).  On a CPU, tensor-parallel
    ranks are not bound to NUMA nodes: vLLM wants one for each and refuses to start without.
    """
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    # vLLM's own bound counts as a type error; `Limits` refuses too many with a clear sentence.
    os.environ["VLLM_MAX_STOP_STRINGS"] = str(2**31 - 1)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", settings.log_level.upper())
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    # vLLM prefers FlashInfer's sampler, which nvcc and g++ compile at the start: few images have
    # both, and ours has neither.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if settings.tensor_parallel_size > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if logging_config is not None:
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(logging_config)
    if settings.cache is not None:
        os.environ["BOOMERANG_CACHE"] = str(settings.cache)
    if settings.compile:  # by default torch's is in /tmp, which pods lose
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))


def break_graphs_at_attention() -> None:
    """Let vLLM capture steps with prompts without its compiler, which would bake one size in.

    For the engine of a family alone: with it, vLLM compiles no other model either.
    """
    os.environ.setdefault("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")
