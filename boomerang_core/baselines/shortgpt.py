"""ShortGPT: drop the layers that change their input least (arXiv 2403.03853).

Shapes: R rows, L tokens a row, B rows at a time, D hidden.

Block Influence of layer i is 1 - E[cos(x_i, x_{i+1})] over all tokens of a calibration text, where
x_i enters the layer and x_{i+1} leaves it.  Layers go in the order of their influence, smallest
first, measured once on the whole teacher; so the sizes are nested and each is a route of teacher
layers.

The authors' code takes x of the last layer behind the final norm, because transformers lists it so.
Here it is what leaves the layer, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from boomerang_core.errors import SettingsError
from boomerang_core.layer_runner import LayerRunner, batches
from boomerang_core.route import Route, teacher_route


@torch.inference_mode()
def block_influence(runner: LayerRunner, ids_RL: torch.Tensor) -> list[float]:
    """Block Influence of every layer, from 0 (changes no direction) to 2, on rows of tokens."""
    cosines = [0.0] * len(runner.layers)
    for part in tqdm(list(batches(len(ids_RL), 1)), desc="block influence", unit="row"):
        hidden_BLD = runner.embed(ids_RL[part])
        for place, layer in enumerate(runner.layers):
            next_BLD = runner.run(layer, place, hidden_BLD)
            cosine_BL = torch.cosine_similarity(hidden_BLD.float(), next_BLD.float(), dim=-1)
            cosines[place] += cosine_BL.double().sum().item()
            hidden_BLD = next_BLD
    return [1 - total / ids_RL.numel() for total in cosines]


def shortgpt_route(influence: Sequence[float], depth: int) -> Route:
    """The teacher's `depth` layers of highest influence, in their order; of equals the later stay.

    Raises `SettingsError` for a depth that the teacher does not have.
    """
    if not 1 <= depth <= len(influence):
        raise SettingsError(f"ShortGPT keeps 1 to {len(influence)} layers, not {depth}")
    by_influence = sorted(range(len(influence)), key=lambda layer: influence[layer])
    return teacher_route(sorted(by_influence[len(influence) - depth :]))
