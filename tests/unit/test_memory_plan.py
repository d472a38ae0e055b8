"""What a run of sizes needs, and how long a run a budget allows; no torch."""

import json
import struct
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import BudgetError, CheckpointError, SettingsError
from boomerang_core.family import Family, load_family
from boomerang_core.footprint import resident_params, teacher_params
from boomerang_core.headers import tensor_shapes
from boomerang_core.ladder import Ladder
from boomerang_core.memory_plan import (
    End,
    EndParams,
    EndRef,
    Residents,
    Span,
    parts_of,
    plan_memory,
    whole,
)
from boomerang_core.route import FamilyDesign, LayerRef, Owner, StudentKind, build_route
from tests.docs.test_readme import FAMILY

KV = 256 << 20
SHIPPED = load_family(FAMILY)
RESIDENTS = Residents.of(SHIPPED)


@st.composite
def designs(draw: st.DrawFn) -> FamilyDesign:
    """Any block map, kept layers, shared blocks, order and kind."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    layers, start = [], 0
    for length in lengths:
        layers.append(list(range(start, start + length)))
        start += length
    kept = [draw(st.sampled_from(block)) for block in layers]
    single = [block[0] for block in layers if len(block) == 1]
    shared = draw(st.sets(st.sampled_from(single))) if single else set()
    block_map = BlockMap.from_layers(layers, kept=kept, shared=sorted(shared))
    order = draw(st.permutations(range(len(layers))))
    kind = draw(st.sampled_from(StudentKind))
    own = kind is StudentKind.FULL and draw(st.booleans())
    return FamilyDesign(block_map, Ladder(len(layers), tuple((b,) for b in order)), kind, own)


@given(designs(), st.data())
def test_a_span_needs_what_its_sizes_run_and_nothing_else(
    design: FamilyDesign, data: st.DataObject
) -> None:
    top = design.ladder.teacher_size
    smallest = data.draw(st.integers(0, top))
    span = Span(smallest, data.draw(st.integers(smallest, top)))
    needed: set[object] = set()
    for size in range(span.smallest, span.largest + 1):
        route = build_route(design, size)
        needed |= {EndRef(route.embedding, End.EMBEDDING), EndRef(route.head, End.HEAD)}
        for layer in route.layers:
            needed.add(layer)
            if design.kind is StudentKind.LOWRANK and layer.owner is Owner.STUDENT:
                needed.add(LayerRef(Owner.TEACHER, design.block_map[layer.index].kept))
    assert parts_of(design, span) == needed


@given(designs(), st.data())
def test_a_longer_run_needs_all_that_a_shorter_one_does(
    design: FamilyDesign, data: st.DataObject
) -> None:
    largest = data.draw(st.integers(0, design.ladder.teacher_size))
    smaller = data.draw(st.integers(0, largest))
    assert parts_of(design, Span(0, smaller)) <= parts_of(design, Span(0, largest))


@given(designs())
def test_the_teacher_alone_needs_nothing_of_the_student(design: FamilyDesign) -> None:
    top = design.ladder.teacher_size
    parts = parts_of(design, Span(top, top))
    assert {part.owner for part in parts} == {Owner.TEACHER}
    count = design.block_map.num_teacher_layers
    assert len(parts) == count + len(End)


def test_every_size_of_the_shipped_family_is_what_the_footprint_says() -> None:
    shape = SHIPPED.shape
    every = RESIDENTS.weight_bytes(whole(SHIPPED.design))
    assert every == resident_params(shape, SHIPPED.student_params) * shape.bytes_per_param
    top = SHIPPED.design.ladder.teacher_size
    alone = RESIDENTS.weight_bytes(Span(top, top))
    assert alone == teacher_params(shape) * shape.bytes_per_param


def test_merged_when_read_a_low_rank_student_takes_what_a_full_one_would() -> None:
    merged = SHIPPED.merged_when_read()
    shape, design = merged.shape, merged.design
    own = sum(not block.shared for block in design.block_map)
    residents = Residents.of(merged)
    every = residents.weight_bytes(whole(design)) // shape.bytes_per_param
    assert every == teacher_params(shape) + own * shape.layer_params
    assert every == resident_params(shape, merged.student_params)
    smallest = residents.weight_bytes(Span(0, 0))
    assert smallest == merged.rows[0].weight_bytes < RESIDENTS.weight_bytes(Span(0, 0))
    assert (merged.rows, merged.root) == (SHIPPED.rows, SHIPPED.root)
    with pytest.raises(SettingsError, match="has a full student already: nothing to merge"):
        merged.merged_when_read()


def test_a_shared_matrix_counts_once() -> None:
    both = (End.EMBEDDING, End.HEAD)
    tied, untied = EndParams(100, 10, 1, tied=True), EndParams(100, 10, 1, tied=False)
    assert [tied.held(ends) for ends in ((), both[:1], both[1:], both)] == [0, 110, 101, 111]
    assert [untied.held(ends) for ends in ((), both[:1], both[1:], both)] == [0, 110, 101, 211]


def test_no_budget_holds_everything() -> None:
    held = plan_memory(SHIPPED, RESIDENTS, None, KV)
    assert held.span == whole(SHIPPED.design)
    assert not held.missing


@pytest.mark.parametrize("size", range(14))
def test_a_size_fits_from_its_first_byte_on(size: int) -> None:
    need = RESIDENTS.weight_bytes(Span(0, size)) + KV
    held = plan_memory(SHIPPED, RESIDENTS, need, KV)
    assert (held.span, held.weight_bytes + held.kv_bytes) == (Span(0, size), need)
    assert held.missing.keys() == set(range(size + 1, 14))
    if size:
        assert plan_memory(SHIPPED, RESIDENTS, need - 1, KV).span == Span(0, size - 1)
    else:
        with pytest.raises(BudgetError, match=f"88m, needs {need:,} bytes"):
            plan_memory(SHIPPED, RESIDENTS, need - 1, KV)


@given(st.integers(1, 2 << 30), st.integers(0, 1 << 30), st.integers(0, 1 << 30))
def test_more_memory_never_offers_less_and_is_never_overdrawn(
    budget: int, more: int, kv_bytes: int
) -> None:
    try:
        held = plan_memory(SHIPPED, RESIDENTS, budget, kv_bytes)
    except BudgetError:
        return
    assert held.weight_bytes + kv_bytes <= budget
    larger = plan_memory(SHIPPED, RESIDENTS, budget + more, kv_bytes)
    assert larger.span.largest >= held.span.largest


def test_sizes_that_are_not_offered_take_no_memory() -> None:
    """Dips below the smallest offered size are left out; those between cost nothing."""
    rows = tuple(replace(row, offered=row.size in (2, 5, 13)) for row in SHIPPED.rows)
    family: Family = replace(SHIPPED, rows=rows)
    held = plan_memory(family, RESIDENTS, RESIDENTS.weight_bytes(Span(2, 6)) + KV, KV)
    assert held.span == Span(2, 5)
    assert RESIDENTS.weight_bytes(Span(2, 5)) < RESIDENTS.weight_bytes(Span(0, 5))
    assert "not offered" in held.missing[0]
    assert "memory budget is" in held.missing[13]


def test_shapes_come_from_the_header() -> None:
    shapes = tensor_shapes(FAMILY / "student" / "model.safetensors")
    assert sum(prod(shape) for shape in shapes.values()) == SHIPPED.student_params


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


HEADERS = [b"", b"tensors", b"\xff" * 8, header(None), header([]), header({"x": {"dtype": "F32"}})]


@pytest.mark.parametrize("content", HEADERS)
def test_what_is_no_safetensors_file_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        tensor_shapes(file)
