"""LaCo: collapse runs of layers into their first one (arXiv 2402.11187).

Shapes: S sentences, L tokens a sentence, D hidden.

A merge adds to a layer's parameters what the following ones differ from it by:
θ_l + Σ_k (θ_{l+k} - θ_l).  Algorithm 1 slides from the top down to layer 0: it merges the C layers
at the pointer, keeps that where the final hidden states on a few sentences stay close enough to the
teacher's (mean cosine above T) and moves I layers down, otherwise drops it and moves one down.

Every merged layer is then a sum of teacher layers with whole factors, so a collapsed teacher is
plain data (`LayerPlan`) until it runs, and a plan that two settings reach is tried once.

What the paper leaves open, or we do otherwise:

- It sets C, I and T by hand for each model and depth.  Here each depth takes, of all C and I in
  `SETTINGS`, the collapse closest to the teacher on the sentences; each with the highest T, in
  steps of 0.05, that gets as far.  The last merge takes fewer layers where C would overshoot.
- As in the authors' notebooks, the pointer starts so that the last layer is left alone at first,
  and only linear maps are merged: a merged layer keeps the norms of its first.  The notebooks
  subtract the growing sum instead of θ_l, so that each merge comes out as the last layer's linear
  maps; here the formula counts (with C = 2, which is among the settings, both are the same).
- A sentence is a piece of the calibration text, all of the same length (`compare/run.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from boomerang_core.architectures import Architecture
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import SettingsError
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import StudentKind
from boomerang_core.student import Student

SETTINGS = tuple(product(range(2, 8), (1, 2)))
"""Layers a merge combines (C) and layers to the next one (I); the authors' notebooks use C = 3 and
C = 7, both with I = 1."""

THRESHOLDS = tuple(step / 20 for step in range(19, -1, -1))
"""Similarities that a merge must keep (T), highest first."""


@dataclass(frozen=True)
class Collapsed:
    """One layer for the teacher's layers `start … stop-1`.

    Its norms are those of `start`; each linear map is the sum of factor × teacher layer.
    """

    start: int
    stop: int
    factors: tuple[tuple[int, int], ...]

    @property
    def merged(self) -> bool:
        """Whether it is anything else than the teacher's own layer."""
        return self.stop - self.start > 1


LayerPlan = tuple[Collapsed, ...]
"""The layers of a collapsed teacher, first to last."""

Similarity = Callable[[LayerPlan], float]


def whole_plan(num_layers: int) -> LayerPlan:
    """The teacher as it is."""
    return tuple(Collapsed(layer, layer + 1, ((layer, 1),)) for layer in range(num_layers))


def merge(plan: LayerPlan, place: int, following: int) -> LayerPlan:
    """Collapse the `following` layers after `place` into it: θ_l + Σ_k (θ_{l+k} - θ_l)."""
    first, *rest = run = plan[place : place + following + 1]
    total: Counter[int] = Counter()
    for layer in run:
        share = 1 - len(rest) if layer is first else 1
        for source, factor in layer.factors:
            total[source] += share * factor
    factors = tuple(sorted((source, factor) for source, factor in total.items() if factor))
    merged = Collapsed(first.start, run[-1].stop, factors)
    return (*plan[:place], merged, *plan[place + following + 1 :])


def collapse(
    plan: LayerPlan,
    depth: int,
    combined: int,
    interval: int,
    threshold: float,
    similarity: Similarity,
) -> LayerPlan | None:
    """Algorithm 1, stopped at `depth` layers; None where it does not get there.

    `combined` is C, `interval` I, `threshold` T.
    """
    place = len(plan) - 1 - combined
    while place >= 0 and len(plan) > depth:
        following = min(combined - 1, len(plan) - 1 - place, len(plan) - depth)
        candidate = merge(plan, place, following)
        if similarity(candidate) > threshold:
            plan = candidate
            place = min(place - interval, len(plan) - combined)
        else:
            place -= 1
    return plan if len(plan) == depth else None


def laco_plan(num_layers: int, depth: int, similarity: Similarity) -> LayerPlan:
    """The collapse to `depth` layers that is most similar to the teacher, over all `SETTINGS`.

    Raises `SettingsError` for a depth that no setting reaches.
    """
    whole = whole_plan(num_layers)
    if depth == num_layers:
        return whole
    found = [
        plan
        for combined, interval in SETTINGS
        if (plan := _strictest(whole, depth, combined, interval, similarity)) is not None
    ]
    if not found:
        raise SettingsError(f"LaCo does not collapse {num_layers} layers to {depth}")
    return max(found, key=similarity)


def _strictest(
    whole: LayerPlan, depth: int, combined: int, interval: int, similarity: Similarity
) -> LayerPlan | None:
    """The collapse at the highest threshold that reaches the depth; at last, none is set."""
    for threshold in (*THRESHOLDS, -1.0):
        plan = collapse(whole, depth, combined, interval, threshold, similarity)
        if plan is not None:
            return plan
    return None


class FinalSimilarity:
    """How close a plan's final hidden states are to the teacher's, each plan measured once.

    The mean over sentences of the cosine between all of a sentence's states behind the final norm,
    taken as one vector.  `ids_SL` are the sentences; the runner's row length is L.
    """

    def __init__(self, runner: LayerRunner, ids_SL: torch.Tensor) -> None:
        self._runner = runner
        self._known: dict[LayerPlan, float] = {}
        self._weights: dict[Collapsed, dict[str, torch.Tensor]] = {}
        with torch.inference_mode():
            self._entering = [runner.embed(ids_SL)]
            for place, layer in enumerate(runner.layers):
                self._entering.append(runner.run(layer, place, self._entering[-1]))
            self._final_SX = runner.norm(self._entering[-1]).flatten(1)

    def __call__(self, plan: LayerPlan) -> float:
        """From -1 to 1; of two plans the one of higher similarity is the better."""
        if plan not in self._known:
            self._known[plan] = self._measure(plan)
        return self._known[plan]

    @torch.inference_mode()
    def _measure(self, plan: LayerPlan) -> float:
        runner = self._runner
        # no more merged layers in memory than one plan has
        self._weights = {
            layer: self._weights.get(layer) or merged_maps(runner, layer)
            for layer in plan
            if layer.merged
        }
        untouched = next((i for i, layer in enumerate(plan) if layer.merged), len(plan))
        hidden_SLD = self._entering[untouched]
        for layer in plan[untouched:]:
            weights = self._weights.get(layer)
            hidden_SLD = runner.run(runner.layers[layer.start], layer.start, hidden_SLD, weights)
        final_SX = runner.norm(hidden_SLD).flatten(1)
        return torch.cosine_similarity(final_SX, self._final_SX).mean().item()


@torch.no_grad()
def merged_maps(runner: LayerRunner, layer: Collapsed) -> dict[str, torch.Tensor]:
    """The linear maps of a merged layer, weights and biases, named relative to the layer.

    New tensors, summed in float32, in the teacher's dtype.
    """
    sources = [
        (dict(runner.layers[source].named_parameters()), factor) for source, factor in layer.factors
    ]
    names = _map_parameters(runner.architecture, sources[0][0])
    return {name: _sum([(own[name], factor) for own, factor in sources]) for name in names}


def _map_parameters(row: Architecture, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.rpartition(".")[0] in row.linear_maps)


def _sum(terms: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """Terms cancel where layers are alike: in bfloat16, little but rounding would be left."""
    (first, factor), *others = terms
    total = factor * first.float()
    for tensor, share in others:
        total = total + share * tensor.float()
    return total.to(first.dtype)


def laco_student(runner: LayerRunner, plan: LayerPlan) -> Student:
    """The collapsed teacher as a `full` student: a block for each layer, one-layer blocks shared.

    So it runs, is measured and is exported like any student; only merged layers take memory.
    """
    row = runner.architecture
    spans = [list(range(layer.start, layer.stop)) for layer in plan]
    shared = [layer.start for layer in plan if not layer.merged]
    tensors = {
        row.layer_name(index, name): tensor
        for index, layer in enumerate(plan)
        if layer.merged
        for name, tensor in _whole_layer(runner, layer).items()
    }
    block_map = BlockMap.from_layers(spans, shared=shared)
    return Student(row.name, StudentKind.FULL, block_map, False, tensors)


def _whole_layer(runner: LayerRunner, layer: Collapsed) -> dict[str, torch.Tensor]:
    own = {name: p.detach() for name, p in runner.layers[layer.start].named_parameters()}
    return {**own, **merged_maps(runner, layer)}
