"""What is measured at one shape: decode at each batch, prefill, memory; each group interleaved."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from typing import Any, TypeVar

import torch

from bench.gpu_layers.model import Cache, Rope, attention, backends, run_step
from bench.gpu_layers.routes import (
    Load,
    Shape,
    Step,
    Work,
    attention_work,
    family_design,
    layers_of,
    plan_step,
    resident_weights,
    step_work,
    teacher_weights,
    thirds,
    three_sizes,
)
from bench.gpu_layers.timing import Ceilings, Clock, Timed, Timings, capture
from bench.gpu_layers.weights import Family, Maker, make_family, make_teacher
from boomerang_core.route import StudentKind

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
Families = Mapping[StudentKind, Family]
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How much to measure: rows, tokens, rounds; elements and width for the ceilings."""

    batches: tuple[int, ...] = (1, 16, 64)
    context: int = 1024
    prompt: int = 2048
    decode_rounds: int = 25
    prefill_rounds: int = 15
    ceiling_elements: int = 1 << 30
    ceiling_width: int = 8192


TINY_SETTINGS = Settings((1, 6), 16, 32, 15, 15, 1 << 20, 256)


@dataclass(frozen=True)
class Cell:
    """One thing to time: its steps run one after another (none where it is attention alone)."""

    name: str
    rows: int
    layers: str
    work: tuple[Work, ...]
    run_each: tuple[Callable[[], torch.Tensor], ...]


@dataclass(frozen=True)
class Inputs:
    """Static inputs of all steps of a group; a step of fewer rows takes the first rows."""

    shape: Shape
    families: Families
    cache: Cache
    rope: Rope
    ids: torch.Tensor
    load: Load

    @classmethod
    def make(cls, shape: Shape, families: Families, load: Load, make: Maker) -> "Inputs":
        """Random token ids and context."""
        cache = Cache.random(shape, load.rows, load.context, make)
        ids_T = torch.randint(shape.vocab, (load.rows * load.tokens,), device=make.device)
        return cls(shape, families, cache, Rope.at_end(shape, load, make), ids_T, load)

    def cell(self, name: str, kind: StudentKind, *parts: Sequence[int]) -> Cell:
        """A cell of one step for each list of sizes in `parts`."""
        family = self.families[kind]
        load = self.load
        steps = [plan_step(family.design, sizes, load.tokens, load.context) for sizes in parts]
        element = self.cache.keys[0].element_size()
        counts = sorted({layers_of(family.design, size) for sizes in parts for size in sizes})
        return Cell(
            name,
            sum(len(sizes) for sizes in parts),
            ", ".join(map(str, counts)),
            tuple(step_work(self.shape, step, element) for step in steps),
            tuple(self._bound(family, step) for step in steps),
        )

    def _bound(self, family: Family, step: Step) -> Callable[[], torch.Tensor]:
        ids_T = self.ids[: step.load.rows * step.load.tokens]
        return lambda: run_step(family, step, ids_T, self.cache, self.rope)

    def attention_cell(self, rows: int, make: Maker) -> Cell:
        """Attention alone, in every layer: how far torch's kernel is from its own floor."""
        load = Load(rows, self.load.tokens, self.load.context)
        shape = self.shape
        q_BHSE = make.normal(rows, shape.heads, load.tokens, shape.head_dim)
        element = q_BHSE.element_size()

        def run() -> torch.Tensor:
            for keys, values in zip(self.cache.keys, self.cache.values, strict=True):
                out = attention(q_BHSE, keys[:rows], values[:rows], causal=load.tokens > 1)
            return out

        work = attention_work(shape, load, element)
        return Cell("attention alone", rows, str(shape.layers), (work,), (run,))


def cells(inputs: Inputs, rows: int, make: Maker) -> Iterator[Cell]:
    """All cells of a number of rows; mixed ones where there are three rows or more."""
    student, middle, teacher = three_sizes(inputs.families[FULL].design)
    yield inputs.cell("teacher", FULL, [teacher] * rows)
    for kind in (FULL, LOWRANK):
        yield inputs.cell(f"{kind} student", kind, [student] * rows)
        yield inputs.cell(f"{kind} middle", kind, [middle] * rows)
        if rows >= 3:
            mixed = thirds(rows, (student, middle, teacher))
            turns = [[size for size in mixed if size == one] for one in (teacher, middle, student)]
            yield inputs.cell(f"{kind} mixed", kind, mixed)
            yield inputs.cell(f"{kind} in turn", kind, *turns)
    yield inputs.attention_cell(rows, make)


RATIOS = (
    *((f"{kind} mixed", f"{kind} in turn") for kind in (FULL, LOWRANK)),
    *((f"{kind} mixed", "teacher") for kind in (FULL, LOWRANK)),
    *((f"{LOWRANK} {size}", f"{FULL} {size}") for size in ("student", "middle", "mixed")),
    *((f"{kind} {size}", "teacher") for kind in (FULL, LOWRANK) for size in ("student", "middle")),
)
"""Which cells are divided by which.  `full` stands for the merged low-rank student too: a merged
layer has its shapes and types."""


def _timed(cell: Cell, graphs: bool) -> Timed:
    each = tuple(capture(run) for run in cell.run_each) if graphs else cell.run_each

    def run() -> None:
        for one in each:
            one()

    return Timed(run, launched=graphs)


def _assert_finite(cell: Cell) -> None:
    for run in cell.run_each:
        if not bool(torch.isfinite(run()).all()):
            raise RuntimeError(f"{cell.name}: outputs are not finite, so timings would mislead")


@dataclass
class Bench:
    """Measures on one device."""

    make: Maker
    clock: Clock
    ceilings: Ceilings
    settings: Settings
    modes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.modes = ("graph", "eager") if self.clock.cuda else ("eager",)

    @torch.inference_mode()
    def run(self, shape: Shape) -> dict[str, Any]:
        """Memory, then every group of cells."""
        with backends(self.make):
            families, memory = self._build(shape)
            return {"shape": shape.name, "memory": memory, "groups": self._groups(shape, families)}

    def _build(self, shape: Shape) -> tuple[Families, dict[str, Any]]:
        """Weights of the teacher and both students, and the memory that each took."""
        teacher, teacher_bytes = self._grown(lambda: make_teacher(shape, self.make))
        families, memory = {}, _memory("teacher", teacher_bytes, teacher_weights(shape))
        for kind in StudentKind:
            design = family_design(shape, kind)
            build = partial(make_family, shape, design, teacher, self.make)
            families[kind], grown = self._grown(build)
            memory |= _memory(kind, grown, resident_weights(shape, design))
            alone = teacher_weights(shape)
            least = resident_weights(shape, design, stored=False)
            memory[f"{kind}_resident_over_teacher_computed"] = 1 + least / alone
            if teacher_bytes:
                memory[f"{kind}_resident_over_teacher"] = 1 + grown / teacher_bytes
        return families, memory

    def _grown(self, build: Callable[[], T]) -> tuple[T, int]:
        """What `build` returns, and the peak of allocated bytes above what there was (0 on CPU)."""
        if not self.clock.cuda:
            return build(), 0
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        built = build()
        return built, torch.cuda.max_memory_allocated() - before

    def _groups(self, shape: Shape, families: Families) -> list[dict[str, Any]]:
        settings = self.settings
        decode = Load(max(settings.batches), 1, settings.context)
        prefill = Load(1, settings.prompt, settings.prompt)
        inputs = Inputs.make(shape, families, decode, self.make)
        groups = [self._group(inputs, n, settings.decode_rounds) for n in settings.batches]
        inputs = Inputs.make(shape, families, prefill, self.make)
        return [*groups, self._group(inputs, 1, settings.prefill_rounds)]

    def _group(self, inputs: Inputs, rows: int, rounds: int) -> dict[str, Any]:
        """Time all cells of one number of rows, in all modes, interleaved."""
        found = {cell.name: cell for cell in cells(inputs, rows, self.make)}
        for cell in found.values():
            _assert_finite(cell)
        runs = {
            f"{mode} {name}": _timed(cell, mode == "graph")
            for name, cell in found.items()
            for mode in self.modes
        }
        timings = self.clock.measure(runs, rounds)
        return {
            "phase": "decode" if inputs.load.tokens == 1 else "prefill",
            "rows": rows,
            "tokens": inputs.load.tokens,
            "context": inputs.load.context,
            "cells": [self._cell_row(cell, timings) for cell in found.values()],
            "ratios": [self._ratio_row(a, b, timings) for a, b in RATIOS if a in found],
        }

    def _cell_row(self, cell: Cell, timings: Mapping[str, Timings]) -> dict[str, Any]:
        floors = [w.seconds(self.ceilings.bandwidth, self.ceilings.flops) for w in cell.work]
        total = reduce(add, cell.work)
        floor_ms = 1e3 * sum(seconds for seconds, _ in floors)
        row: dict[str, Any] = {"step": cell.name, "rows": cell.rows, "layers": cell.layers}
        row |= {"read_bytes": total.read, "flops": total.flops, "floor_ms": floor_ms}
        row["floor_is"] = " and ".join(sorted({bound for _, bound in floors}))
        for mode in self.modes:
            summary = timings[f"{mode} {cell.name}"].summary()
            row[mode] = {**summary, "over_floor": summary["median_ms"] / floor_ms}
        return row

    def _ratio_row(self, a: str, b: str, timings: Mapping[str, Timings]) -> dict[str, Any]:
        ratios = {m: timings[f"{m} {a}"].over(timings[f"{m} {b}"]) for m in self.modes}
        return {"of": a, "to": b, **ratios}


def _memory(name: str, grown: int, weights: int) -> dict[str, Any]:
    return {f"{name}_bytes": grown, f"{name}_weights_computed": weights}
