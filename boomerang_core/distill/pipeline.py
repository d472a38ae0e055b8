"""The whole run: teacher → text → blocks → student → evaluation → family folder."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch

from boomerang_core.architectures import model_shape
from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import (
    frozen_teacher,
    load_tokenizer,
    parse_teacher,
    pinned,
    teacher_folder,
)
from boomerang_core.checkpoint_files import stored_params
from boomerang_core.contents import require_nothing_else
from boomerang_core.devices import require_memory, usable_device
from boomerang_core.distill.endtoend import distill
from boomerang_core.distill.kept import kept_layers
from boomerang_core.distill.metrics import METRICS, require_tensorboard
from boomerang_core.distill.prepared import prepared_rows, written_share
from boomerang_core.distill.processes import Turns
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.result import Result, write_result
from boomerang_core.distill.start import starting_student
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.ladder import evaluate_design
from boomerang_core.evaluate.record import evaluation_note
from boomerang_core.family import Family, build_rows, load_family
from boomerang_core.files import make_folder
from boomerang_core.folders import held_folder, remove_empty
from boomerang_core.layer_runner import LayerRunner, require_known
from boomerang_core.own_teacher import VERSION, version_of
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.student import Student
from boomerang_core.teacher_ref import TeacherRef
from boomerang_core.text.evaluation import Sample, scoring_rows
from boomerang_core.text.rows import Rows
from boomerang_core.text.sources import pin_sources, shown, source_versions


@dataclass(frozen=True)
class _Teacher:
    """The loaded teacher and what goes with it."""

    ref: TeacherRef
    version: str
    model: Any
    tokenizer: Any
    runner: LayerRunner


@dataclass(frozen=True)
class _Work:
    """One folder for each finished stage, named by everything that the stage depends on."""

    text: Path
    blocks: Path
    training: Path

    @classmethod
    def of(cls, recipe: Recipe, teacher: str, folder: Path) -> Self:
        """`teacher` is the version of its contents.  Raises WriteError."""
        files = [teacher, *source_versions(recipe.text).values()]
        stages = {
            "text": recipe.text_key(*files),
            "blocks": recipe.blocks_key(*files),
            "training": recipe.key(*files),
        }
        paths = {stage: folder / f"{stage}-{key}" for stage, key in stages.items()}
        for path in paths.values():
            make_folder(path)
        return cls(**paths)

    @classmethod
    def remove_empty(cls, folder: Path) -> None:
        """Remove the folders of stages in which nothing was kept."""
        for stage in fields(cls):
            for path in folder.glob(f"{stage.name}-{'[0-9a-f]' * 16}"):
                remove_empty(path)


def make(
    recipe: Recipe,
    out: Path,
    work: Path,
    eval_text: Path | None = None,
    device: str | None = None,
    tensorboard: Path | None = None,
) -> Family:
    """Make a family folder; the same recipe and machine give the same bytes.

    `work` keeps finished stages under a hash of the recipe, so that a run that was stopped goes
    on where it was; teacher and text are pinned, and known by their contents.  Without
    `eval_text` the sizes are measured on the held-out documents.  `device` None is a GPU where
    there is one, each process its own.  `tensorboard` is a folder for the end-to-end stage's
    metrics as event files.  Of the processes of `accelerate launch` or `torchrun`, the first
    prepares the text and the blocks, all train end to end, and the first measures and writes;
    `work` must be a folder that all of them see.
    Raises, before the first stage where that can be known: CheckpointError, ArchitectureError,
    BlockMapError, LadderError, SizeError, DataError, FamilyError, SettingsError, TrainingError,
    StoppedError, WriteError.
    """
    _check_folders(out, work)
    if tensorboard is not None:
        require_tensorboard()
    recipe = replace(recipe, text=pin_sources(recipe.text))
    turns = Turns(recipe.end_to_end, device)
    place = usable_device(device or str(turns.device))
    with held_folder(work) if turns.is_first else nullcontext():
        try:
            return _make(recipe, out, work, eval_text, place, tensorboard, turns)
        finally:
            if turns.is_first:
                _Work.remove_empty(work)


def _make(
    recipe: Recipe,
    out: Path,
    work: Path,
    eval_text: Path | None,
    place: torch.device,
    tensorboard: Path | None,
    turns: Turns,
) -> Family:
    """Make it, on one device of this process, in a work folder that is this run's alone."""
    teacher = _load(recipe, place)
    name = teacher.ref.pinned_name if teacher.ref.kind == "hub" else recipe.teacher
    recipe = replace(recipe, teacher=name, end_to_end=recipe.end_to_end.on(place))
    stages = _Work.of(recipe, teacher.version, work)
    _check_sizes(recipe, teacher.model)
    eval_RL = None if eval_text is None else _evaluation_rows(recipe, teacher, eval_text)
    if eval_RL is not None:
        require_known(teacher.model, eval_RL)
    clock = _Clock()
    with turns.first_alone():  # the others then find its work on disk
        with clock.stage("text"):
            rows, counts, lines = prepared_rows(
                recipe, teacher.model, teacher.tokenizer, stages.text
            )
            if turns.is_first:
                print(*lines, sep="\n", file=sys.stderr)
        with clock.stage("blocks"):
            design = _design(recipe, _blocks(recipe, teacher.runner, rows, stages.blocks))
            student, fits = starting_student(
                recipe, teacher.model, teacher.runner, design, rows, stages.blocks
            )
    with clock.stage("end_to_end"):
        student = _trained(recipe, teacher, student, design, rows, stages.training, tensorboard)
    if turns.is_first:
        eval_RL = _heldout_rows(recipe, rows) if eval_RL is None else eval_RL
        measured = evaluate_design(teacher.model, student, design, eval_RL)
        notes = _notes(recipe, teacher, counts, clock, turns)
        notes["evaluation"] = evaluation_note(measured, eval_text, written_share(counts))
        made = (recipe, teacher.ref, teacher.model, design, student, fits, measured)
        write_result(Result(*made, stages.training / METRICS, notes), out)
    turns.wait()
    return load_family(out)


def _check_folders(out: Path, work: Path) -> None:
    """Raise what is wrong with a folder to write a family into, and with one to work in."""
    make_folder(out)
    require_nothing_else(out)
    inside = os.path.relpath(work.resolve(), out.resolve())
    if inside == "." or inside[0] != ".":  # which is not listed; nor is what lies outside, at ..
        raise SettingsError(
            f"the work folder {work} lies in {out}, of which everything becomes the family: "
            "give one beside it"
        )


class _Clock:
    """Wall seconds of each stage: those of this run, where a stopped one goes on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def _notes(
    recipe: Recipe, teacher: _Teacher, counts: dict[str, Any], clock: _Clock, turns: Turns
) -> dict[str, Any]:
    """How the family was made, for its provenance."""
    versions = source_versions(recipe.text)
    return {
        VERSION: teacher.version,
        "text": {shown(name): sha256 for name, sha256 in versions.items()},
        "tokens": counts,
        "seconds": clock.seconds,
        "processes": turns.count,
    }


def _design(recipe: Recipe, block_map: BlockMap) -> FamilyDesign:
    ladder = recipe.patch_order(block_map)
    return FamilyDesign(block_map, ladder, StudentKind(recipe.kind), recipe.own_embeddings)


def _trained(
    recipe: Recipe,
    teacher: _Teacher,
    student: Student,
    design: FamilyDesign,
    rows: Rows,
    stage: Path,
    tensorboard: Path | None,
) -> Student:
    """The student after the end-to-end stage, where there is one, in bfloat16."""
    settings, seed = recipe.end_to_end, recipe.seed
    on_cpu = {name: tensor.cpu() for name, tensor in student.tensors.items()}
    student = student.with_tensors(on_cpu)  # one copy less
    if settings.tokens:
        student = distill(
            teacher.model, student, design, rows.train, settings, seed, stage, tensorboard
        )
    return student.with_tensors({n: t.to(torch.bfloat16) for n, t in student.tensors.items()})


def _load(recipe: Recipe, device: torch.device) -> _Teacher:
    ref = parse_teacher(recipe.teacher)
    folder = teacher_folder(ref)
    if device.type == "cuda":
        require_memory(device, 4 * stored_params(folder), "the teacher in float32")
    model = frozen_teacher(folder, torch.float32, device)
    _check_head(recipe, model)
    return _Teacher(
        pinned(ref, folder),
        version_of(ref, folder),
        model,
        load_tokenizer(folder),
        LayerRunner(model, recipe.row_length),
    )


def _check_head(recipe: Recipe, model: Any) -> None:
    """Raise SettingsError where a random head would stay random."""
    random = recipe.start == "random" and recipe.own_embeddings
    if random and not (model.config.tie_word_embeddings or recipe.end_to_end.objective.needs_head):
        raise SettingsError(
            "start random with own embeddings needs cross entropy or KL in the objective: "
            "alignment alone trains no head, and this teacher's is not tied to its embedding"
        )


def _check_sizes(recipe: Recipe, model: Any) -> None:
    """Raise now what is wrong with blocks, ladder and sizes; kept layers do not matter to them."""
    shape = model_shape(model)
    block_map = recipe.block_map(shape.num_layers)
    build_rows(_design(recipe, block_map), shape)


def _blocks(recipe: Recipe, runner: LayerRunner, rows: Rows, stage: Path) -> BlockMap:
    """The recipe's blocks, with kept layers."""
    plain = recipe.block_map(len(runner.layers))
    if not recipe.kept_is_measured:
        return plain
    count = math.ceil(recipe.kept_tokens / recipe.row_length)
    return kept_layers(recipe.kept, runner, plain, rows.train[:count], stage)


def _evaluation_rows(recipe: Recipe, teacher: _Teacher, text: Path) -> torch.Tensor:
    return Sample(text, recipe.eval_tokens, recipe.row_length).rows(teacher.tokenizer)


def _heldout_rows(recipe: Recipe, rows: Rows) -> torch.Tensor:
    return rows.heldout[: scoring_rows(recipe.eval_tokens, recipe.row_length)]
