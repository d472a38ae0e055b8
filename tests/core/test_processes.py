"""Several processes learn what one does, whether each holds everything or FSDP shares it out."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import Shard, distribute_tensor

from boomerang_core.distill.endtoend import distill
from boomerang_core.distill.metrics import METRICS
from boomerang_core.distill.processes import ending_processes
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.distill.sharding import fsdp_settings, sharded_like
from boomerang_core.errors import SettingsError, TrainingError
from boomerang_core.route import StudentKind
from boomerang_core.student import Student
from tests.core.conftest import tiny_teacher
from tests.core.tiny_run import metrics, shared_end, start, tiny_rows, told
from tests.core.two_processes import BF16, SHORT

LAUNCHERS = {
    "each whole": ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"],
    "sharded": [
        *("accelerate.commands.launch", "--config_file", "boomerang_core/recipes/fsdp.yaml"),
        *("--num_processes", "2", "--module"),
    ],
}


def alone(work: Path, kind: StudentKind, settings: EndToEnd = SHORT) -> Student:
    """What one process learns of the same rows."""
    teacher = tiny_teacher("llama", True)
    student, design = start(teacher, kind, kind is StudentKind.FULL)
    return distill(teacher, student, design, tiny_rows(), settings, 0, work)


def launch(launcher: str, *arguments: str) -> None:
    """Run `two_processes`."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "tests.core.two_processes", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=LAUNCHERS)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `two_processes`."""
    folder = tmp_path_factory.mktemp("two")
    launch(request.param, str(folder))
    limits = {"each whole": (1, 1), "sharded": (0.5, 0.52)}[request.param]
    shares = json.loads((folder / "held.json").read_text())
    assert all(limits[0] <= share <= limits[1] for share in shares.values())
    return folder


def test_bfloat16_learns_the_same(two: Path, tmp_path: Path) -> None:
    """A sharded layer's norms are in bfloat16 too, which one process keeps in float32."""
    alone(tmp_path, StudentKind.FULL, BF16)
    found, expected = (
        [told(line, "loss") for line in metrics(work)] for work in (two / "bf16", tmp_path)
    )
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert found == pytest.approx(expected, rel=3e-2)


def test_steps_that_learn_nothing_lie_between_others(two: Path) -> None:
    sizes = {key for line in metrics(two / "mixed") for key in line if key.endswith("/steps")}
    assert sizes == {"student/steps", "interpolated/steps"}
    trained = load_file(two / "mixed" / "student.safetensors")
    start, _ = shared_end(tiny_teacher("llama", True), own=False)
    assert all(not torch.equal(trained[name], tensor) for name, tensor in start.tensors.items())


@pytest.mark.parametrize("name", ["checkpointed", "configured", "told"])
def test_another_way_to_the_same_student(name: str, two: Path) -> None:
    """Layers that run again for their gradient, and a run that one process was told to stop."""
    plain, found = (
        load_file(two / run / "student.safetensors") for run in (StudentKind.FULL, name)
    )
    assert all(torch.equal(found[tensor], plain[tensor]) for tensor in plain)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_processes_that_do_not_agree_all_say_so_at_once(launcher: str, tmp_path: Path) -> None:
    launch(launcher, str(tmp_path), "apart")


class Left:
    """Stands for a model that holds the group, in a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("fails", [False, True])
def test_what_may_hold_the_group_is_freed_before_it_ends(fails: bool) -> None:
    """Also what an error holds that is still told of."""
    left: list[weakref.ref[Left]] = []

    def work() -> None:
        model = Left()
        left.append(weakref.ref(model))
        if fails:
            raise TrainingError("no")

    expected = pytest.raises(TrainingError) if fails else nullcontext()
    gc.disable()
    try:
        with expected as error, ending_processes():
            work()
        assert left[0]() is None, error
    finally:
        gc.enable()


def test_a_restored_tensor_is_where_its_parameter_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offloaded, that is not where the mesh is; `meta` stands for such a place."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        there = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
        waiting = there.to("meta")
        assert sharded_like(torch.ones(4, 2), there).to_local().device.type == "cpu"
        assert sharded_like(torch.ones(4, 2), waiting).to_local().device.type == "meta"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_compiled_layers_learn_the_same(launcher: str, tmp_path: Path) -> None:
    launch(launcher, str(tmp_path), "compiled")
    for kind in StudentKind:
        alone(tmp_path / kind, kind, replace(SHORT, compiled=True))
        found = losses(tmp_path / f"{kind}-compiled")
        assert found == pytest.approx(losses(tmp_path / kind), rel=1e-5)


def losses(work: Path) -> list[float]:
    names = ("loss", "gradient_norm")
    return [told(line, name) for line in metrics(work) for name in names]


@pytest.mark.parametrize("kind", StudentKind)
class TestTwoProcesses:
    def test_learn_what_one_does(self, kind: StudentKind, two: Path, tmp_path: Path) -> None:
        student = alone(tmp_path, kind)
        # the mean of two halves is rounded in another order than the mean of the whole
        assert losses(two / kind) == pytest.approx(losses(tmp_path), rel=1e-5)
        found = load_file(two / kind / "student.safetensors")
        torch.testing.assert_close(found, dict(student.tensors), atol=1e-3, rtol=0)

    def test_stopped_and_resumed_end_with_the_same_bits(self, kind: StudentKind, two: Path) -> None:
        whole, resumed = (
            load_file(two / name / "student.safetensors") for name in (kind, f"{kind}-resumed")
        )
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
        assert len(metrics(two / f"{kind}-resumed")) == 5

    def test_their_state_is_taken_up_by_one(
        self, kind: StudentKind, two: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(two / f"{kind}-stopped", tmp_path / "resumed")
        before = (tmp_path / "resumed" / METRICS).read_text()
        alone(tmp_path / "resumed", kind)
        assert (tmp_path / "resumed" / METRICS).read_text().startswith(before)
        assert losses(tmp_path / "resumed") == pytest.approx(losses(two / kind), rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"FSDP_VERSION": "1"}, "set fsdp_version to 2"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading to false"),
    ],
)
def test_what_the_trainer_cannot_do_is_refused(
    changed: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    for name, value in {**settings, **changed}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        fsdp_settings(num_processes=2)
    assert fsdp_settings(num_processes=1) is None  # nothing to share
