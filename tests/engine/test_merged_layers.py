"""Deltas merged as they are read, without an engine: what of the checkpoint comes out, and how."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from boomerang_core.errors import CheckpointError
from boomerang_core.route import Owner, StudentKind
from server.engine.architectures import engine_architecture
from server.engine.loader import student_shapes
from server.engine.merged_layers import MergedLayers
from tests.engine.families import BLOCKS, PREFIX, TinyFamily, layer_of, make_family, merged

INDEX, KEPT = 0, BLOCKS[0].kept
UP = f"{PREFIX}.{KEPT}.mlp.up_proj.weight"


@pytest.fixture(params=[False, True], ids=["deltas", "attention's weights"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> TinyFamily:
    """A low-rank family, its teacher in bfloat16 and its student in float32, as the shipped one."""
    made = make_family(tmp_path, StudentKind.LOWRANK, False, True, attention=request.param)
    file = made.teacher_dir / "model.safetensors"
    stored = {name: value.to(torch.bfloat16) for name, value in load_file(file).items()}
    save_file(stored, file, {"format": "pt"})
    return made


def read(tiny: TinyFamily, layers: range) -> dict[str, torch.Tensor]:
    """What is read of those student layers."""
    folders = {Owner.TEACHER: tiny.teacher_dir, Owner.STUDENT: tiny.family.student_dir}
    names = student_shapes(tiny.family.student_dir)
    source = MergedLayers(folders, BLOCKS, engine_architecture("LlamaForCausalLM"), names)
    wanted = tuple(f"{PREFIX}.{index}." for index in layers)
    return dict(source.read(lambda name: name.startswith(wanted)))


def test_sums_are_not_rounded_to_the_teachers_format(tiny: TinyFamily) -> None:
    teacher = load_file(tiny.teacher_dir / "model.safetensors")
    student = load_file(tiny.family.student_dir / "model.safetensors")
    kept = {name: value.float() for name, value in layer_of(teacher, KEPT).items()}
    expected = merged(kept, layer_of(student, INDEX))
    found = layer_of(read(tiny, range(1)), INDEX)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].float(), value, rtol=1e-6, atol=1e-6)
    up = found["mlp.up_proj.weight"]
    assert not torch.equal(up, up.to(torch.bfloat16).float())


def test_only_what_is_wanted_is_read_and_nothing_of_shared_blocks(tiny: TinyFamily) -> None:
    names = read(tiny, range(1, len(BLOCKS)))
    own = {index for index, block in enumerate(BLOCKS) if not block.shared} - {0}
    assert {int(name.split(".")[2]) for name in names} == own


def test_a_teacher_that_lost_a_map_is_named(tiny: TinyFamily) -> None:
    file = tiny.teacher_dir / "model.safetensors"
    left = {name: value.clone() for name, value in load_file(file).items() if name != UP}
    save_file(left, file, {"format": "pt"})
    lost = rf"the teacher no longer holds layers\.{KEPT}\.mlp\.up_proj\.weight"
    with pytest.raises(CheckpointError, match=lost):
        read(tiny, range(1))
