"""The budget that a server takes from its GPUs; a script stands in for CUDA."""

import pytest

from boomerang_core.errors import SettingsError
from server import cli
from server.device import DEVICE_SHARE, device_budget
from server.settings import read_settings

GIGABYTE = 1 << 30
FAKE = f"import sys; print('\\n'.join(['{8 * GIGABYTE}'] * int(sys.argv[1])))"


@pytest.mark.parametrize("count", [1, 4])
def test_it_is_a_share_of_what_all_gpus_have(count: int) -> None:
    assert device_budget(count, FAKE) == int(count * 8 * GIGABYTE * DEVICE_SHARE)


@pytest.mark.parametrize("fault", ["raise RuntimeError('no CUDA GPUs')", "import no_such_module"])
def test_what_cuda_does_not_tell_is_one_line(fault: str) -> None:
    with pytest.raises(SettingsError, match="cannot read the memory of 2 GPUs") as caught:
        device_budget(2, fault)
    assert "state memory_budget" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attention_that_no_family_can_be_served_with_is_refused() -> None:
    assert read_settings(attention_backend="TRITON_ATTN").attention_backend == "TRITON_ATTN"
    with pytest.raises(SettingsError, match=r"attention_backend: .*FLASH_ATTN"):
        read_settings(attention_backend="FLASHINFER")


def test_a_gpu_server_takes_its_budget_from_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "built_for_cpu", lambda: False)
    monkeypatch.setattr(cli, "device_budget", lambda count: count * GIGABYTE)
    assert cli._budget(read_settings(tensor_parallel_size=2)) == 2 * GIGABYTE
    assert cli._budget(read_settings(tensor_parallel_size=2, memory_budget="1MiB")) == 1 << 20
