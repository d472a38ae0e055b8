"""What the server sets in the environment before vLLM is imported."""

import os
from pathlib import Path

import pytest

from server.process.environment import break_graphs_at_attention, prepare_environment
from server.settings import read_settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    fresh: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", fresh)
    return fresh


def test_vllms_runner_v1_is_chosen(environment: dict[str, str]) -> None:
    environment["VLLM_USE_V2_MODEL_RUNNER"] = "1"  # under V2 every request would run as the teacher
    prepare_environment(read_settings(), None)
    assert environment["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment


def test_no_sampler_that_is_compiled_at_the_start_unless_told(environment: dict[str, str]) -> None:
    prepare_environment(read_settings(), None)
    assert environment["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    environment["VLLM_USE_FLASHINFER_SAMPLER"] = "1"
    prepare_environment(read_settings(), None)
    assert environment["VLLM_USE_FLASHINFER_SAMPLER"] == "1"


def test_steps_with_prompts_have_graphs_unless_told(environment: dict[str, str]) -> None:
    prepare_environment(read_settings(), None)  # for a plain model, too, that is compiled
    assert "VLLM_USE_BREAKABLE_CUDAGRAPH" not in environment
    break_graphs_at_attention()
    assert environment["VLLM_USE_BREAKABLE_CUDAGRAPH"] == "1"
    environment["VLLM_USE_BREAKABLE_CUDAGRAPH"] = "0"
    break_graphs_at_attention()
    assert environment["VLLM_USE_BREAKABLE_CUDAGRAPH"] == "0"


def test_tensor_parallel_ranks_are_not_bound_unless_told(environment: dict[str, str]) -> None:
    settings = read_settings(tensor_parallel_size=2)
    prepare_environment(settings, None)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    prepare_environment(settings, None)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"


def test_what_was_compiled_is_kept_in_our_cache_unless_told(environment: dict[str, str]) -> None:
    prepare_environment(read_settings(), None)
    assert "TORCHINDUCTOR_CACHE_DIR" not in environment
    settings = read_settings(compile=True, cache=Path("/cache"))
    prepare_environment(settings, None)
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/cache/compiled"
    environment["TORCHINDUCTOR_CACHE_DIR"] = "/elsewhere"
    prepare_environment(settings, None)
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
