"""Which layer of a block its student starts from.

`measured`: the layer whose removal from the whole teacher hurts most.  `sequential`: block
after block, the layer that leaves the better model, the blocks before being pruned already.
SmolLM2-135M's layers 9 and 10 cost the same to remove alone; of the 17-layer models, the one that
keeps 9 is much the better (docs/log.md): layer 11 makes an attention sink out of what 9 prepares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.evaluate.quality import evaluate_routes
from boomerang_core.files import save_json
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import teacher_route
from boomerang_core.route_runner import RouteRunner


def kept_layers(
    how: str, runner: LayerRunner, plain: BlockMap, ids_RL: torch.Tensor, stage: Path
) -> BlockMap:
    """The blocks with the layers that `how` keeps; what was measured stays in `stage`.

    `how` is `measured` or `sequential`.  KL is to the whole teacher, on rows of tokens.
    """
    path = stage / f"kept-{how}.json"
    if not path.exists():
        choose = keep_most_missed if how == "measured" else keep_in_sequence
        save_json(choose(runner, plain, ids_RL), path)
    kept = json.loads(path.read_text())["kept"]
    shared = [block.start for block in plain if block.shared]
    return BlockMap.from_layers([list(block.layers) for block in plain], kept, shared)


def keep_most_missed(
    runner: LayerRunner, plain: BlockMap, ids_RL: torch.Tensor
) -> dict[str, object]:
    """`kept`: a layer a block.  `removed`: KL without each layer of a block of several."""
    layers = [layer for block in plain if len(block) > 1 for layer in block.layers]
    whole = range(len(runner.layers))
    kls = _kl(runner, plain, [[i for i in whole if i != layer] for layer in layers], ids_RL)
    removed = dict(zip(layers, kls, strict=True))
    kept = [max(block.layers, key=lambda layer: removed.get(layer, 0.0)) for block in plain]
    return {"kept": kept, "removed": removed}


def keep_in_sequence(
    runner: LayerRunner, plain: BlockMap, ids_RL: torch.Tensor
) -> dict[str, object]:
    """`kept`: a layer a block.  `candidates`: KL with each, the blocks before pruned already."""
    kept: list[int] = []
    candidates: list[dict[int, float]] = []
    for block in plain:
        rest = range(block.stop, len(runner.layers))
        tried = list(block.layers) if len(block) > 1 else []
        kls = _kl(runner, plain, [[*kept, layer, *rest] for layer in tried], ids_RL)
        found = dict(zip(tried, kls, strict=True))
        kept.append(min(found, key=lambda layer: found[layer]) if found else block.start)
        candidates += [found] if found else []
    return {"kept": kept, "candidates": candidates}


def _kl(
    runner: LayerRunner,
    plain: BlockMap,
    candidates: Sequence[Sequence[int]],
    ids_RL: torch.Tensor,
) -> list[float]:
    """KL to the teacher of the models of those teacher layers."""
    routes = [teacher_route(layers) for layers in candidates]
    whole = teacher_route(range(len(runner.layers)))
    found = evaluate_routes(RouteRunner(runner, None, plain), whole, routes, ids_RL, "kept layers")
    return [quality.kl for quality in found]
