"""Which layer of a block its student starts from: the one whose removal hurts most."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.distill.stream import LayerRunner
from boomerang_core.evaluate.perplexity import evaluate_routes, lanes
from boomerang_core.provenance import save_json
from boomerang_core.route import LayerRef, Owner, Route


def keep_most_missed(
    runner: LayerRunner, plain: BlockMap, ids_RL: torch.Tensor, stage: Path
) -> BlockMap:
    """The blocks with their most missed layers kept; what was measured stays in ``stage``."""
    path = stage / "removals.json"
    if not path.exists():
        save_json(removal_damage(runner, plain, ids_RL), path)
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
