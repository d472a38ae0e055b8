"""What a search measures: KL to the teacher of any route, cosine similarity of any block.

Shapes: R rows, L tokens a row, D hidden.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from boomerang_core.blocks import Block
from boomerang_core.errors import DataError
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.files import save_json
from boomerang_core.layer_runner import LayerRunner, batches
from boomerang_core.route import Owner, Route, spell
from boomerang_core.route_runner import RouteRunner

_TOGETHER = 32  # routes in one pass over the text: shared beginnings within, a save after
_SECONDS = 10.0  # between saves of what was measured


class Oracle:
    """KL(teacher‖route) in nats a token on fixed rows; each route is measured once.

    What was measured stays in the file `path`, so a search that was stopped goes on.  The file must
    be of the same models and rows: name it by `content_key`.
    """

    def __init__(
        self, runner: RouteRunner, teacher: Route, ids_RL: torch.Tensor, path: Path
    ) -> None:
        self._runner, self._teacher, self._ids_RL, self.path = runner, teacher, ids_RL, path
        self._known = _read(path)
        self._before = frozenset(self._known)
        self._asked: set[str] = set()

    @property
    def measured(self) -> int:
        """How many of the routes asked for were measured now."""
        return len(self._asked - self._before)

    @property
    def reused(self) -> int:
        """How many of them an earlier run had measured."""
        return len(self._asked & self._before)

    def kl(self, routes: Sequence[Route]) -> list[float]:
        """The KL of each route.  Raises `CheckpointError` where one is no number."""
        named = {spell(route): route for route in routes}
        missing = [route for name, route in named.items() if name not in self._known]
        self._asked |= named.keys()
        if missing:
            try:
                self._measure(sorted(missing, key=_by_beginning))
            finally:  # an interrupted search keeps what it has
                save_json(self._known, self.path)
        return [self._known[spell(route)] for route in routes]

    def _measure(self, routes: Sequence[Route]) -> None:
        saved = time.monotonic()
        with tqdm(total=len(routes), desc="KL", unit="model", leave=False) as bar:
            for part in batches(len(routes), _TOGETHER):
                self._measure_together(routes[part])
                bar.update(len(routes[part]))
                if time.monotonic() - saved > _SECONDS:
                    save_json(self._known, self.path)
                    saved = time.monotonic()

    def _measure_together(self, routes: Sequence[Route]) -> None:
        qualities = evaluate_routes(self._runner, self._teacher, routes, self._ids_RL, None)
        kls = (quality.kl for quality in qualities)
        self._known |= zip(map(spell, routes), kls, strict=True)


def _by_beginning(route: Route) -> tuple[object, ...]:
    """Sorts routes so that those that begin alike are neighbours, the teacher's likes first."""
    layers = tuple((ref.owner is Owner.STUDENT, ref.index) for ref in route.layers)
    return (route.embedding is Owner.STUDENT, layers)


def _read(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(kl) for name, kl in known.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no table of measured models; delete it: {error}") from error


def content_key(ids_RL: torch.Tensor, *models: Mapping[str, torch.Tensor], **settings: Any) -> str:
    """A hash of rows, settings, and the beginning of each of the models' tensors."""
    digest = hashlib.sha256(json.dumps([list(ids_RL.shape), settings], sort_keys=True).encode())
    digest.update(ids_RL.cpu().numpy().tobytes())
    for tensors in models:
        for name in sorted(tensors):
            beginning = tensors[name].detach().flatten()[:64].float().cpu()
            digest.update(name.encode() + beginning.numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def similarities(
    teacher: LayerRunner, stands: Sequence[tuple[Block, nn.Module]], ids_RL: torch.Tensor
) -> list[float]:
    """How well a layer stands for a block: mean cosine of its output and the block's.

    Both start from the teacher's own hidden state at the block's start, and the mean is over all
    tokens.  Called at the place of the block's kept layer.  It is the cosine that the paper's loss
    raises (arXiv 2510.05064, §2.2), one block at a time; with nothing at all in the block's place
    it would be 1 less ShortGPT's block influence (arXiv 2403.03853).
    """
    sums = [0.0] * len(stands)
    for part in tqdm(list(batches(len(ids_RL), 1)), desc="cosine", unit="row", leave=False):
        states = [teacher.embed(ids_RL[part])]
        for place, layer in enumerate(teacher.layers):
            states.append(teacher.run(layer, place, states[-1]))
        for index, (block, layer) in enumerate(stands):
            out_BLD = teacher.run(layer, block.kept, states[block.start])
            cosine_BL = torch.cosine_similarity(out_BLD, states[block.stop], dim=-1)
            sums[index] += cosine_BL.mean().item()
    return [total / len(ids_RL) for total in sums]
