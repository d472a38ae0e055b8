"""What a caller may and may not ask of the engine."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from boomerang_core.errors import ArchitectureError, SettingsError
from server.engine import compat
from server.engine.graph_spans import rows_to_capture
from server.engine.graphs import GraphedRunner
from server.engine.loader import engine_arguments
from server.engine.sizes import SIZE_KEY, size_of
from tests.engine.families import TinyFamily

assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"  # set by conftest, before vLLM


@pytest.fixture
def family(build: Callable[[str], TinyFamily]) -> TinyFamily:
    return build("lowrank")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"enforce_eager": False}, "enforce_eager is set by the family"),
        ({"worker_cls": "other"}, "worker_cls is set by the family"),
        ({"speculative_config": {"model": "x"}}, "speculative_config is not supported"),
        ({"enable_prompt_embeds": True}, "enable_prompt_embeds is not supported"),
        ({"pipeline_parallel_size": 2}, "pipeline parallel is not supported"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    family: TinyFamily, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        engine_arguments(family.family, family.teacher_dir, **limits)


def test_limits_pass_through(family: TinyFamily) -> None:
    arguments = engine_arguments(family.family, family.teacher_dir, max_model_len=99)
    assert arguments["max_model_len"] == 99
    assert arguments["served_model_name"] == "tiny"


@pytest.mark.parametrize(
    ("platform", "limits", "ahead"),
    [
        ("cpu", {}, False),
        ("gpu", {}, True),
        ("gpu", {"async_scheduling": False}, False),
    ],
)
def test_on_a_gpu_steps_are_scheduled_ahead(
    family: TinyFamily,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    limits: dict[str, Any],
    ahead: bool,
) -> None:
    monkeypatch.setattr(compat, "platform", lambda: platform)
    arguments = engine_arguments(family.family, family.teacher_dir, **limits)
    kind = "Async" if ahead else ""
    assert arguments["async_scheduling"] is ahead
    assert arguments["scheduler_cls"] == f"server.engine.scheduler.Boomerang{kind}Scheduler"


@pytest.mark.parametrize("prompts", [False, True])
def test_on_a_gpu_prompts_have_graphs_where_vllm_breaks_them(
    family: TinyFamily, monkeypatch: pytest.MonkeyPatch, prompts: bool
) -> None:
    monkeypatch.setattr(compat, "platform", lambda: "gpu")
    monkeypatch.setattr(compat, "is_breakable_cudagraph_enabled", lambda: prompts, raising=False)
    arguments = engine_arguments(family.family, family.teacher_dir, max_num_seqs=24)
    config = arguments["compilation_config"]
    mode = "FULL_AND_PIECEWISE" if prompts else "FULL_DECODE_ONLY"
    assert (config["mode"], config["cudagraph_mode"]) == (0, mode)
    assert config["cudagraph_capture_sizes"] == rows_to_capture(24, prompts)
    assert compat.CUDAGraphMode[mode] in GraphedRunner.graph_modes


@pytest.mark.parametrize(
    ("major", "limits", "backend"),
    [
        (10, {}, "FLASH_ATTN"),
        (10, {"dtype": "bfloat16", "attention_backend": None}, "FLASH_ATTN"),
        (10, {"attention_config": {"flash_attn_version": 2}}, "FLASH_ATTN"),
        (10, {"dtype": "float32"}, "TRITON_ATTN"),  # FlashAttention has no float32
        (10, {"dtype": torch.float32}, "TRITON_ATTN"),
        (10, {"attention_backend": "TRITON_ATTN"}, "TRITON_ATTN"),
        (10, {"attention_config": {"backend": "TRITON_ATTN"}}, None),
        (9, {}, None),
        (12, {}, None),
        (None, {}, None),
    ],
)
def test_no_backend_that_orders_the_batch_is_left_to_vllm(
    family: TinyFamily,
    monkeypatch: pytest.MonkeyPatch,
    major: int | None,
    limits: dict[str, Any],
    backend: str | None,
) -> None:
    capability = major and SimpleNamespace(major=major, minor=0)
    gpu = SimpleNamespace(get_device_capability=lambda: capability)
    monkeypatch.setattr(compat, "current_platform", gpu)
    arguments = engine_arguments(family.family, family.teacher_dir, **limits)
    assert arguments.get("attention_backend") == backend


def test_the_backends_that_are_stated_do_not_order_the_batch() -> None:
    for name in ("flash_attn", "triton_attn"):
        module = import_module(f"vllm.v1.attention.backends.{name}")
        builders = [each for each in vars(module) if each.endswith("MetadataBuilder")]
        assert {getattr(module, each).reorder_batch_threshold for each in builders} == {None}


def test_an_architecture_without_a_vllm_model_is_refused(family: TinyFamily) -> None:
    other = replace(family.family, architecture="GPTNeoXForCausalLM")
    with pytest.raises(ArchitectureError, match="GPTNeoXForCausalLM cannot be served"):
        engine_arguments(other, family.teacher_dir)


@pytest.mark.parametrize("value", [-1, 4, "1", 1.0, True, None])
def test_what_is_not_a_size_runs_as_the_teacher(value: object) -> None:
    from vllm import SamplingParams

    bad: Any = {SIZE_KEY: value}
    assert size_of(SamplingParams(extra_args=bad), 3) == 3
    assert size_of(None, 3) == 3
