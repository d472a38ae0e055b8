"""What a family folder says about its own quality, read and checked; no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boomerang_core.errors import FamilyError
from boomerang_core.family import Family
from boomerang_core.footprint import footprint_bytes, kv_bytes_per_token, teacher_params
from boomerang_core.sizes import Quality


@dataclass(frozen=True)
class Step:
    """A training step: tokens seen so far, the size that it ran, its KL in nats a token."""

    tokens: int
    size: int
    kl: float


@dataclass(frozen=True)
class Findings:
    """A measured family: the quality of every size, and what else its reports hold."""

    family: Family
    quality: Sequence[Quality]
    naive: Sequence[Quality] | None
    training: Sequence[Step]

    @property
    def measured(self) -> dict[str, Any]:
        """How the sizes were measured: command, date, hardware, text, as far as it was noted.

        A family that was measured while it was made has these in the note of its making.
        """
        made = {key: self.family.provenance.get(key) for key in ("command", "date", "hardware")}
        noted = self.family.provenance.get("evaluation") or {}
        text = noted.get("text") or "a text that was not noted"
        return {**made, **noted, "text": text, "n": self.quality[0].n}

    def naive_params(self, layers: int) -> int:
        """Parameters of a naively pruned teacher of that many layers."""
        shape = self.family.shape
        return teacher_params(shape) - (shape.num_layers - layers) * shape.layer_params

    def naive_footprint(self, layers: int) -> int:
        """Its standalone bytes, with as many tokens of KV cache as the family's footprints."""
        shape = self.family.shape
        weights = self.naive_params(layers) * shape.bytes_per_param
        tokens = self.family.footprint_tokens
        return footprint_bytes(weights, kv_bytes_per_token(shape, layers), tokens)


def read_findings(family: Family) -> Findings:
    """The qualities in the family's table, `report/naive.json` and `report/training.jsonl`.

    Raises `FamilyError` where a size was not measured or a file is malformed; the files may lack.
    """
    quality = [row.quality for row in family.rows if row.quality is not None]
    if len(quality) < len(family.rows):
        missing = next(row.id for row in family.rows if row.quality is None)
        raise FamilyError(
            f"size {missing} of {family.name} was never measured: "
            "run boomerang evaluate FAMILY --text FILE --save"
        )
    folder = family.root / "report"
    naive, training = folder / "naive.json", folder / "training.jsonl"
    return Findings(
        family,
        quality,
        _read_naive(naive, family) if naive.exists() else None,
        _read_training(training) if training.exists() else (),
    )


def _read_naive(path: Path, family: Family) -> list[Quality]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        layers = [row["layers"] for row in rows]
        naive = [
            Quality(float(row["kl"]), float(row["top1"]), float(row["perplexity"]), int(row["n"]))
            for row in rows
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise FamilyError(f"{path} is malformed at {error!r}") from error
    if layers != [row.layers for row in family.rows]:
        raise FamilyError(f"{path} has other sizes than the family: {layers} layers")
    return naive


def _read_training(path: Path) -> list[Step]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [_step(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise FamilyError(f"{path} is malformed at {error!r}") from error


def _step(line: Mapping[str, Any]) -> Step:
    step = Step(int(line["tokens"]), int(line["size"]), float(line["kl"]))
    if not math.isfinite(step.kl):
        raise ValueError(f"a KL of {step.kl}")
    return step
