"""Weights that no held size needs are not there, and come back the same: fp32 and bf16."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from vllm import LLM

from boomerang_core.memory_plan import Residents, Span, whole
from boomerang_core.route import StudentKind
from server.engine import register
from server.engine.loader import engine_arguments
from tests.engine.conftest import LIMITS
from tests.engine.families import HIDDEN, LINEAR, PREFIX, RANK, TinyFamily, make_family
from tests.engine.test_equality import BATCH, expected, greedy

pytestmark = pytest.mark.engine

SMALL = Span(0, 1)
SPANS = (SMALL, Span(0, 0), Span(0, 2), Span(1, 3), Span(2, 2), Span(0, 3))
Keep = Callable[[Any], Any]


def start(tiny: TinyFamily, teacher: Path, sizes: Span | None = None, **limits: Any) -> Any:
    register()
    return LLM(**engine_arguments(tiny.family, teacher, sizes=sizes, **{**LIMITS, **limits}))


@pytest.fixture(scope="module")
def small(tiny: TinyFamily, keep: Keep) -> Any:
    """An engine of the family in turn that began with the two smallest sizes."""
    return keep(start(tiny, tiny.teacher_dir, SMALL))


def hold(engine: Any, span: Span) -> int:
    (held,) = engine.collective_rpc("hold_sizes", args=(span.smallest, span.largest))
    assert not isinstance(held, str), held
    engine.reset_prefix_cache()  # or cached keys and values would answer for some of the weights
    return int(held)


def predicted(tiny: TinyFamily, span: Span) -> int:
    """The prediction, and what unequal ranks in a fused map cost: `k_proj` has half the rank."""
    family = tiny.family
    total = Residents.of(family).weight_bytes(span)
    names = load_file(family.student_dir / "model.safetensors").keys()
    if not family.merges_deltas and any(name.endswith("k_proj.lora_A") for name in names):
        narrow = HIDDEN // 2 + HIDDEN  # k_proj: outputs of one head of two, inputs
        patched = family.design.ladder.patched(span.smallest)
        students = [
            index
            for index, block in enumerate(family.design.block_map)
            if not block.shared and index not in patched
        ]
        total += len(students) * (RANK - RANK // 2) * narrow * 4
    return total


def assert_right(tiny: TinyFamily, engine: Any, span: Span) -> None:
    sizes = [size for size in tiny.sizes if size in span]
    mixed = [sizes[index % len(sizes)] for index in range(len(BATCH))]
    got = greedy(engine, BATCH, mixed)
    assert got == [expected(tiny, size)[index] for index, size in enumerate(mixed)]


def test_what_was_loaded_at_start_is_right_and_as_much_as_predicted(
    tiny: TinyFamily, small: Any
) -> None:
    assert small.collective_rpc("resident_bytes") == [predicted(tiny, SMALL)]
    assert predicted(tiny, SMALL) < predicted(tiny, whole(tiny.family.design))
    assert_right(tiny, small, SMALL)


def test_released_and_read_again(tiny: TinyFamily, small: Any) -> None:
    for span in SPANS:
        assert hold(small, span) == predicted(tiny, span)
        assert_right(tiny, small, span)
    assert small.collective_rpc("resident_bytes") == [predicted(tiny, Span(0, 3))]
    assert hold(small, SMALL) == predicted(tiny, SMALL)
    assert_right(tiny, small, SMALL)


def test_released_parts_have_no_storage(tiny: TinyFamily, small: Any) -> None:
    """Counted on the model itself, packed weights apart, without our own book-keeping."""

    def layers(span: Span) -> int:
        hold(small, span)
        return sum(len(names) for names in small.apply_model(_layers_with_storage))

    assert layers(Span(0, 0)) < layers(SMALL) < layers(Span(0, 3))


def _layers_with_storage(model: Any) -> list[str]:
    return [
        name
        for name, parameter in model.named_parameters()
        if not parameter.is_meta and name.endswith("_layernorm.weight")
    ]


def test_bfloat16_comes_back_the_same(build: Callable[[str], TinyFamily], keep: Keep) -> None:
    """The weights that vLLM packs for bfloat16 too; one batch shape, so that sums are the same."""
    for name in ("lowrank", "lowrank-merged-when-read", "full-own-ends"):
        tiny = build(name)
        engine = keep(start(tiny, tiny.teacher_dir, dtype="bfloat16"))
        sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
        before = greedy(engine, BATCH, sizes)
        hold(engine, Span(0, 0))
        hold(engine, whole(tiny.family.design))
        assert greedy(engine, BATCH, sizes) == before


@pytest.mark.parametrize("merge", [False, True])
def test_a_student_that_lost_a_tensor_is_not_taken_for_whole(
    tmp_path: Path, keep: Keep, merge: bool
) -> None:
    """Zeros in its place would answer, and wrongly."""
    tiny = make_family(tmp_path, StudentKind.LOWRANK, False, True)
    if merge:
        tiny = replace(tiny, family=tiny.family.merged_when_read())
    largest = tiny.sizes[-1]
    engine = keep(start(tiny, tiny.teacher_dir, Span(largest, largest)))
    file = tiny.family.student_dir / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    del tensors[f"{PREFIX}.0.mlp.up_proj.lora_B"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(Exception, match=r"no longer holds layers\.0\.mlp\.up_proj\.lora_B"):
        hold(engine, Span(0, largest))
    assert engine.apply_model(_held) == [(largest, largest)]
    assert_right(tiny, engine, Span(largest, largest))


def _held(model: Any) -> tuple[int, int]:
    return model.held.smallest, model.held.largest


@pytest.fixture
def partial(tmp_path: Path) -> tuple[TinyFamily, Sequence[str]]:
    """A family whose teacher's file lacks what the smallest size does not need."""
    tiny = make_family(tmp_path, StudentKind.LOWRANK, False, True)
    kept = {block.kept for block in tiny.family.design.block_map}
    file = tiny.teacher_dir / "model.safetensors"
    tensors = load_file(file)
    gone = [
        f"{PREFIX}.{layer}.{linear}.weight"
        for layer in range(tiny.family.shape.num_layers)
        if layer not in kept
        for linear in LINEAR
    ]
    full = {name: value.clone() for name, value in tensors.items()}
    save_file(full, tmp_path / "whole.safetensors", {"format": "pt"})
    save_file({k: v for k, v in full.items() if k not in gone}, file, {"format": "pt"})
    return tiny, gone


def test_what_is_not_needed_is_not_read(
    partial: tuple[TinyFamily, Sequence[str]], keep: Keep, tmp_path: Path
) -> None:
    """Not even missed: an engine serves the student from a teacher that lacks the other layers."""
    tiny, gone = partial
    assert gone
    engine = keep(start(tiny, tiny.teacher_dir, Span(0, 0)))
    answers = greedy(engine, BATCH, [0] * len(BATCH))
    with pytest.raises(Exception, match="no longer holds"):
        hold(engine, Span(0, 3))
    assert greedy(engine, BATCH, [0] * len(BATCH)) == answers  # a failed change changes nothing
    with pytest.raises(Exception, match="no longer holds"):
        hold(engine, Span(2, 3))
    assert greedy(engine, BATCH, [0] * len(BATCH)) == answers  # nor one that would give parts up
    assert engine.apply_model(_held) == [(0, 0)]
    (tmp_path / "whole.safetensors").replace(tiny.teacher_dir / "model.safetensors")
    assert_right(tiny, engine, Span(0, 0))
    hold(engine, Span(0, 3))
    assert_right(tiny, engine, Span(0, 3))
