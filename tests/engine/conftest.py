"""One engine per family, kept alive for the session: vLLM's process groups are global."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # plans are carried by the V1 runner
os.environ.setdefault("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")  # graphs of prompts, as a server has
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # or attention in float32 would be in tf32

from boomerang_core.route import StudentKind
from server.engine import register
from tests.engine.families import TinyFamily, make_family

LIMITS: dict[str, Any] = {
    # what vLLM wants to find free on a GPU; here many engines share one
    **({"gpu_memory_utilization": 0.1} if torch.cuda.is_available() else {}),
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,  # two long prompts and a half
    "block_size": 32,
    "kv_cache_memory_bytes": 16 << 20,
    "skip_tokenizer_init": True,
    "disable_log_stats": True,
    "seed": 0,
}
KINDS = {
    "full-own-ends": (StudentKind.FULL, True, False),
    "full-teachers-ends": (StudentKind.FULL, False, False),
    "full-own-tied-ends": (StudentKind.FULL, True, True),
    "lowrank": (StudentKind.LOWRANK, False, True),
    "lowrank-attention-merged": (StudentKind.LOWRANK, False, True),
    "lowrank-merged-when-read": (StudentKind.LOWRANK, False, True),
}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyFamily]:
    """Name of a kind → its family, made once."""

    @cache
    def make(name: str) -> TinyFamily:
        folder = tmp_path_factory.mktemp(name)
        tiny = make_family(folder, *KINDS[name], attention="attention" in name)
        if "when-read" in name:
            return replace(tiny, family=tiny.family.merged_when_read())
        return tiny

    return make


@pytest.fixture(scope="session")
def engines() -> Iterator[list[Any]]:
    """Engines kept until the session ends: deleting one tears down the others' groups.

    Each that ends looks twice for garbage in all of vLLM, which takes a second; here it need not.
    """
    kept: list[Any] = []
    yield kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)
        kept.clear()


@pytest.fixture(scope="session")
def start(engines: list[Any]) -> Callable[[TinyFamily], Any]:
    """A family → the engine that serves all its sizes, started once."""
    from vllm import LLM

    from server.engine.loader import engine_arguments

    register()
    started: dict[Path, Any] = {}

    def routed(tiny: TinyFamily) -> Any:
        key = tiny.family.root
        if key not in started:
            started[key] = LLM(**engine_arguments(tiny.family, tiny.teacher_dir, **LIMITS))
            engines.append(started[key])
        return started[key]

    return routed


@pytest.fixture(scope="session")
def plain(engines: list[Any]) -> Callable[[Path], Any]:
    """A checkpoint folder → plain vLLM serving it, started once."""
    from vllm import LLM

    @cache
    def make(folder: Path) -> Any:
        engines.append(LLM(model=str(folder), enforce_eager=True, **LIMITS))
        return engines[-1]

    return make


@pytest.fixture(scope="session")
def keep(engines: list[Any]) -> Callable[[Any], Any]:
    """Keep an engine of a test's own as long as the others."""
    register()

    def hold(engine: Any) -> Any:
        engines.append(engine)
        return engine

    return hold


@pytest.fixture(scope="session", params=KINDS)
def tiny(request: pytest.FixtureRequest, build: Callable[[str], TinyFamily]) -> TinyFamily:
    """Each kind of family in turn."""
    return build(request.param)


@pytest.fixture
def engine(tiny: TinyFamily, start: Callable[[TinyFamily], Any]) -> Any:
    """The engine of the family in turn."""
    return start(tiny)


def token_prompts(prompts: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """vLLM's prompts of token ids."""
    return [{"prompt_token_ids": list(prompt)} for prompt in prompts]
