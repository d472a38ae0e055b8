"""Qualities of routes measured row by row, each kept in a file: a stopped evaluation goes on.

Shapes: R rows, L tokens a row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from boomerang_core.contents import sha256_of
from boomerang_core.errors import DataError
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.family import Family
from boomerang_core.finished import read_finished, write_finished
from boomerang_core.own_teacher import measured_source
from boomerang_core.route import Route
from boomerang_core.route_runner import RouteRunner
from boomerang_core.sizes import Quality
from boomerang_core.text.evaluation import Sample

_SECONDS = 10.0  # between saves


class Parts:
    """Measures as `evaluate_routes` does, and keeps what is finished in a folder.

    `settings` are everything that decides the qualities beside the routes.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, settings

    def __call__(
        self,
        runner: RouteRunner,
        teacher_route: Route,
        routes: Sequence[Route],
        ids_RL: torch.Tensor,
        label: str,
    ) -> list[Quality]:
        """The quality of every route.  Raises `DataError` for a file that is something else."""
        path = self._folder / f"{label.replace(' ', '-')}.json"
        done: list[list[list[Any]]] = read_finished(path, self._settings) or []
        saved = time.monotonic()
        try:
            for row in tqdm(range(len(ids_RL)), desc=label, unit="row", initial=len(done)):
                if row < len(done):
                    continue
                ids_1L = ids_RL[row : row + 1]
                measured = evaluate_routes(runner, teacher_route, routes, ids_1L, None)
                done.append([list(astuple(quality)) for quality in measured])
                if time.monotonic() - saved > _SECONDS:
                    write_finished(path, self._settings, done)
                    saved = time.monotonic()
        finally:  # an interrupted evaluation keeps what it has
            write_finished(path, self._settings, done)
        return [joined([Quality(*row[index]) for row in done]) for index in range(len(routes))]


def joined(parts: Sequence[Quality]) -> Quality:
    """The quality on all tokens of several parts of a text."""
    n = sum(part.n for part in parts)
    return Quality(
        kl=math.fsum(part.kl * part.n for part in parts) / n,
        top1=math.fsum(part.top1 * part.n for part in parts) / n,
        perplexity=math.exp(math.fsum(math.log(part.perplexity) * part.n for part in parts) / n),
        n=n,
    )


def text_parts(family: Family, sample: Sample, folder: Path) -> Parts:
    """Parts of a family's evaluation on a text, kept in the folder.

    Raises `DataError`, and `CheckpointError` where there is no teacher.
    """
    try:
        digest = sha256_of(sample.text)
    except OSError as error:
        raise DataError(f"cannot read evaluation text from {sample.text}: {error}") from error
    return Parts(folder, {**measured_source(family), "text": digest, **sample.settings})
