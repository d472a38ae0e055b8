"""The budget that a server takes from its GPUs; a script stands in for CUDA."""

import pytest

from boomerang_core.errors import SettingsError
from boomerang_core.memory_plan import MemoryPlan, Span
from server.memory import budget
from server.memory.device import (
    DEVICE_SHARE,
    PROCESS_BYTES,
    VLLM_SHARE,
    device_budget,
    device_memory,
    device_share,
)
from server.settings import read_settings

GIGABYTE = 1 << 30
FAKE = f"import sys; print('\\n'.join(['{8 * GIGABYTE}'] * int(sys.argv[1])))"


@pytest.mark.parametrize("count", [1, 4])
def test_cuda_is_asked_of_every_gpu(count: int) -> None:
    assert device_memory(count, FAKE) == (8 * GIGABYTE,) * count


@pytest.mark.parametrize(("each", "left"), [(80, 8.0), (32, 3.2), (16, 2.5), (4, 2.5), (1, 1.0)])
@pytest.mark.parametrize("count", [1, 4])
def test_a_budget_leaves_the_process_its_memory(each: int, left: float, count: int) -> None:
    """A tenth, and of small GPUs 2.5 GiB; of one that has less, nothing is for weights."""
    budget = device_budget([each * GIGABYTE] * count)
    assert budget == pytest.approx(count * (each - left) * GIGABYTE, abs=count)
    assert budget <= count * each * GIGABYTE * DEVICE_SHARE


def held(weights: int, kv: int) -> MemoryPlan:
    return MemoryPlan(Span(0, 1), None, weights, kv, {})


def test_vllm_must_find_free_what_the_server_takes() -> None:
    """Not nine tenths of a GPU that others use too."""
    plan = held(2 * GIGABYTE, 3 * GIGABYTE)
    assert device_share(plan, [80 * GIGABYTE]) == (5 * GIGABYTE + PROCESS_BYTES) / (80 * GIGABYTE)
    each = device_share(plan, [80 * GIGABYTE] * 2) * 80 * GIGABYTE
    assert each == 5 * GIGABYTE / 2 + PROCESS_BYTES
    # vLLM takes one share for all: the smaller share where GPUs differ
    assert device_share(plan, [40 * GIGABYTE, 80 * GIGABYTE]) * 80 * GIGABYTE == each


def test_vllm_asks_for_no_more_than_by_itself() -> None:
    assert device_share(held(8 * GIGABYTE, GIGABYTE), [8 * GIGABYTE]) == VLLM_SHARE
    assert 0 < device_share(held(1, 1), [200 * GIGABYTE]) < 0.02  # vLLM refuses 0


@pytest.mark.parametrize("fault", ["raise RuntimeError('no CUDA GPUs')", "import no_such_module"])
def test_what_cuda_does_not_tell_is_one_line(fault: str) -> None:
    with pytest.raises(SettingsError, match="cannot read the memory of 2 GPUs") as caught:
        device_memory(2, fault)
    assert "\n" not in str(caught.value)


def test_attention_that_no_family_can_be_served_with_is_refused() -> None:
    assert read_settings(attention_backend="TRITON_ATTN").attention_backend == "TRITON_ATTN"
    with pytest.raises(SettingsError, match=r"attention_backend: .*FLASH_ATTN"):
        read_settings(attention_backend="FLASHINFER")


@pytest.fixture
def gpu_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "built_for_cpu", lambda: False)
    monkeypatch.setattr(budget, "device_memory", lambda count: (80 * GIGABYTE,) * count)


@pytest.mark.usefixtures("gpu_server")
def test_a_gpu_server_takes_its_budget_from_its_gpus() -> None:
    assert budget.memory_budget(read_settings(tensor_parallel_size=2)) == 144 * GIGABYTE
    assert (
        budget.memory_budget(read_settings(tensor_parallel_size=2, memory_budget="1MiB")) == 1 << 20
    )


@pytest.mark.usefixtures("gpu_server")
def test_a_gpu_server_tells_vllm_how_much_it_takes() -> None:
    told = budget.vllm_share(read_settings(tensor_parallel_size=2), held(GIGABYTE, GIGABYTE))
    assert told["gpu_memory_utilization"] * 80 * GIGABYTE == GIGABYTE + PROCESS_BYTES


def test_a_cpu_server_tells_vllm_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "built_for_cpu", lambda: True)
    assert budget.vllm_share(read_settings(), held(GIGABYTE, GIGABYTE)) == {}
