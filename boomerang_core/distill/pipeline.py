"""The whole run: teacher → text → blocks → student → evaluation → family folder."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from boomerang_core.architectures import model_shape
from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import load_teacher, load_tokenizer, parse_teacher
from boomerang_core.distill.blockwise import Fit, Parameters, distill_blocks
from boomerang_core.distill.data import (
    Rows,
    load_documents,
    prompts,
    read_documents,
    sample_documents,
    save_documents,
    split_rows,
)
from boomerang_core.distill.endtoend import METRICS, distill
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.stream import LayerRunner
from boomerang_core.errors import SettingsError
from boomerang_core.evaluate.ladder import Measured, evaluate_design, pareto
from boomerang_core.evaluate.perplexity import (
    evaluate_routes,
    evaluation_rows,
    lanes,
    leading_rows,
)
from boomerang_core.evaluate.record import evaluation_note, rounded, write_reports
from boomerang_core.family import INDEX, Family, TeacherRef, build_rows, sha256_of, write_family
from boomerang_core.provenance import copy_file, provenance, save_json
from boomerang_core.route import FamilyDesign, LayerRef, Owner, Route, StudentKind
from boomerang_core.student import Student, initial_student, random_student, save_student

RECIPE = "recipe.json"
CURVE = "report/training.jsonl"


@dataclass(frozen=True)
class _Teacher:
    """The loaded teacher and what goes with it."""

    ref: TeacherRef
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
    def of(cls, recipe: Recipe, folder: Path) -> Self:
        files = list(_text_files(recipe).values())
        stages = {
            "text": recipe.text_key(*files),
            "blocks": recipe.blocks_key(*files),
            "training": recipe.key(*files),
        }
        paths = {stage: folder / f"{stage}-{key}" for stage, key in stages.items()}
        for path in paths.values():
            path.mkdir(parents=True, exist_ok=True)
        return cls(**paths)


def _text_files(recipe: Recipe) -> dict[str, str]:
    """The sha256 of each file of text, by the name that the recipe gives it."""
    return {text: sha256_of(Path(text)) for text in recipe.text if Path(text).is_file()}


def make(
    recipe: Recipe,
    out: Path,
    work: Path,
    eval_text: Path | None = None,
    device: str | None = None,
) -> Family:
    """Make a family folder; the same recipe and machine give the same bytes.

    ``work`` keeps finished stages under a hash of the recipe, so that a run that was stopped goes
    on where it was.  Without ``eval_text`` the sizes are measured on the held-out documents.
    ``device`` None is a GPU where there is one.  Raises the errors of its stages: CheckpointError,
    ArchitectureError, DataError, SettingsError, TrainingError.
    """
    stages = _Work.of(recipe, work)
    teacher = _load(recipe, usable_device(device))
    rows = _text(recipe, teacher, stages.text)
    block_map = _blocks(recipe, teacher.runner, rows, stages.blocks)
    design = FamilyDesign(
        block_map,
        recipe.patch_order(block_map),
        StudentKind(recipe.kind),
        recipe.own_embeddings,
    )
    student, fits = _start(recipe, teacher, design, rows, stages.blocks)
    if recipe.end_to_end.tokens:
        settings = recipe.end_to_end
        student = distill(
            teacher.model, student, design, rows.train, settings, recipe.seed, stages.training
        )
    student = student.with_tensors({n: t.to(torch.bfloat16) for n, t in student.tensors.items()})
    ids_RL = _evaluation_text(recipe, teacher, rows, eval_text)
    measured = evaluate_design(teacher.model, student, design, ids_RL)
    curve = stages.training / METRICS
    return _write(recipe, teacher, design, student, fits, measured, curve, out, eval_text)


def usable_device(name: str | None) -> torch.device:
    """The named device, or the best there is.  Raises SettingsError."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name or found)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"cannot use device {name!r}: {reason}; there is {found!r}") from error
    return device


def _load(recipe: Recipe, device: torch.device) -> _Teacher:
    ref = parse_teacher(recipe.teacher)
    model = load_teacher(ref, torch.float32).to(device).eval().requires_grad_(False)
    return _Teacher(ref, model, load_tokenizer(ref), LayerRunner(model, recipe.row_length))


def _text(recipe: Recipe, teacher: _Teacher, stage: Path) -> Rows:
    """Local documents and the teacher's own, split by document, in rows."""
    documents = read_documents(recipe.text, teacher.tokenizer, recipe.text_tokens, recipe.seed)
    path = stage / "samples.safetensors"
    if recipe.sample_tokens and not path.exists():
        save_documents(_samples(recipe, teacher, documents), path)
    if recipe.sample_tokens:
        documents += load_documents(path)
    return split_rows(documents, recipe.row_length, recipe.heldout_every, recipe.seed)


def _samples(
    recipe: Recipe, teacher: _Teacher, documents: list[torch.Tensor]
) -> list[torch.Tensor]:
    model = teacher.model
    if model.device.type == "cuda":  # what is sampled need not be exact, and this is twice as fast
        model = copy.deepcopy(model).to(torch.bfloat16)
    return sample_documents(
        model,
        teacher.tokenizer,
        prompts(teacher.tokenizer, documents, recipe.seed),
        recipe.sample_tokens,
        recipe.seed,
        recipe.sample_length,
        recipe.sample_rows,
    )


def _start(
    recipe: Recipe, teacher: _Teacher, design: FamilyDesign, rows: Rows, stage: Path
) -> tuple[Student, dict[int, Fit]]:
    """The student that the end-to-end stage begins with, in float32, and how its blocks fit."""
    torch.manual_seed(recipe.seed)
    if recipe.start == "random":
        return random_student(teacher.model, design.block_map, design.own_embeddings), {}
    initial = initial_student(
        teacher.model, design.block_map, design.kind, recipe.rank, design.own_embeddings
    )
    if recipe.start == "naive":
        return initial, {}
    return _blockwise(recipe, teacher, initial, design, rows, stage)


def _blockwise(
    recipe: Recipe,
    teacher: _Teacher,
    initial: Student,
    design: FamilyDesign,
    rows: Rows,
    stage: Path,
) -> tuple[Student, dict[int, Fit]]:
    """A student distilled block after block, in float32."""
    layers = teacher.runner.architecture.layers
    count = math.ceil(recipe.block_tokens / recipe.row_length)
    fits = distill_blocks(
        teacher.runner,
        dict(enumerate(design.block_map)),
        _by_block(initial, layers),
        Rows(rows.train[:count], rows.heldout[: max(1, count // recipe.heldout_every)]),
        recipe,
        stage,
    )
    return _with_parameters(initial, fits, layers), fits


def _blocks(recipe: Recipe, runner: LayerRunner, rows: Rows, stage: Path) -> BlockMap:
    """The recipe's blocks; with ``kept = measured``, each keeps the layer that it misses most."""
    plain = recipe.block_map(len(runner.layers))
    if recipe.kept != "measured":
        return plain
    path = stage / "removals.json"
    if not path.exists():
        count = math.ceil(recipe.kept_tokens / recipe.row_length)
        save_json(removal_damage(runner, plain, rows.train[:count]), path)
    damage = {int(layer): kl for layer, kl in json.loads(path.read_text()).items()}
    kept = [max(block.layers, key=lambda layer: damage.get(layer, 0.0)) for block in plain]
    shared = [block.start for block in plain if block.shared]
    return BlockMap.from_layers([list(block.layers) for block in plain], kept, shared)


def removal_damage(
    runner: LayerRunner, block_map: BlockMap, ids_RL: torch.Tensor
) -> dict[int, float]:
    """KL to the teacher with one layer removed, for every layer of a block of several."""
    layers = [layer for block in block_map if len(block) > 1 for layer in block.layers]
    whole = tuple(LayerRef(Owner.TEACHER, layer) for layer in range(len(runner.layers)))
    routes = [_teacher_route(whole[:layer] + whole[layer + 1 :]) for layer in layers]
    qualities = evaluate_routes(
        lanes(runner, None, block_map), _teacher_route(whole), routes, ids_RL, "one layer removed"
    )
    return {layer: quality.kl for layer, quality in zip(layers, qualities, strict=True)}


def _teacher_route(layers: tuple[LayerRef, ...]) -> Route:
    return Route(layers, Owner.TEACHER, Owner.TEACHER)


def _by_block(student: Student, prefix: str) -> dict[int, Parameters]:
    """The tensors of the student's layers in float32, by block, named relative to their layer."""
    blocks: dict[int, Parameters] = {}
    for name, tensor in student.tensors.items():
        if not name.startswith(prefix + "."):
            continue  # an embedding, the final norm or the head
        index, _, rest = name.removeprefix(prefix + ".").partition(".")
        blocks.setdefault(int(index), {})[rest] = tensor.detach().float().clone()
    return blocks


def _with_parameters(student: Student, fits: Mapping[int, Fit], prefix: str) -> Student:
    """The student with trained tensors."""
    return student.with_tensors(
        {
            f"{prefix}.{index}.{name}": tensor.contiguous()
            for index, fit in fits.items()
            for name, tensor in fit.parameters.items()
        }
    )


def _evaluation_text(
    recipe: Recipe, teacher: _Teacher, rows: Rows, eval_text: Path | None
) -> torch.Tensor:
    if eval_text is not None:
        return evaluation_rows(eval_text, teacher.tokenizer, recipe.row_length, recipe.eval_tokens)
    available = rows.heldout.shape[0] * (recipe.row_length - 1)
    tokens = min(recipe.eval_tokens, available)
    return leading_rows(rows.heldout.flatten(), recipe.row_length, tokens)


def _write(
    recipe: Recipe,
    teacher: _Teacher,
    design: FamilyDesign,
    student: Student,
    fits: Mapping[int, Fit],
    measured: Measured,
    curve: Path,
    out: Path,
    eval_text: Path | None,
) -> Family:
    """Write the folder; ``family.json`` goes first and comes last, so no half is ever valid."""
    (out / INDEX).unlink(missing_ok=True)
    save_student(student, out / "student")
    save_json(recipe.to_json(), out / RECIPE)
    write_reports(out / "report", design, measured)
    _write_errors(out / "report", design, fits)
    if curve.exists():
        copy_file(curve, out / CURVE)
    else:
        (out / CURVE).unlink(missing_ok=True)  # of an earlier family in the same folder
    quality = {size: rounded(value) for size, value in enumerate(measured.family)}
    shape = model_shape(teacher.model)
    family = Family(
        name=recipe.name,
        architecture=teacher.runner.architecture.name,
        design=design,
        shape=shape,
        teacher=teacher.ref,
        rows=build_rows(design, shape, quality, pareto(measured.family)),
        student_params=student.num_params,
        footprint_tokens=recipe.footprint_tokens,
        default_size=design.ladder.teacher_size,
        provenance=provenance(
            recipe.seed,
            text={Path(text).name: sha for text, sha in _text_files(recipe).items()},
            evaluation=evaluation_note(measured, eval_text),
        ),
        root=out,
    )
    write_family(family, out)
    return family


def _write_errors(folder: Path, design: FamilyDesign, fits: Mapping[int, Fit]) -> None:
    """`blocks.json`: each block's held-out error at the start and after both stages."""
    stages = ("start", "closed_form", "gradient_steps")
    errors = [
        {
            "block": list(design.block_map[index].layers),
            "kept": design.block_map[index].kept,
            **{name: round(error, 5) for name, error in zip(stages, fit.errors, strict=True)},
        }
        for index, fit in fits.items()
    ]
    save_json(errors, folder / "blocks.json")
