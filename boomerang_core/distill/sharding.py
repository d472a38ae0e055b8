"""Layers as units that FSDP gathers and frees, and the way between whole and sharded tensors.

FSDP wants each parameter in one unit.  A low-rank student's layer runs on its kept teacher layer's
weights, and a shared block's layer is the teacher's, so layers that share a parameter are one unit.
Whoever runs a layer calls it through its unit: that is where FSDP gathers the unit's parameters.

Which processes there are and how they shard is `accelerate`'s configuration
(boomerang_core/recipes/fsdp.yaml).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from boomerang_core.errors import SettingsError


class LayerUnit(nn.Module):
    """Layers that share parameters, of which each call runs one."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, place: int, *args: Any, **kwargs: Any) -> Any:
        """Whatever the layer in that place returns."""
        return self.layers[place](*args, **kwargs)


class _InUnit(nn.Module):
    """A layer, called through its unit."""

    def __init__(self, units: nn.ModuleList, unit: int, place: int) -> None:
        super().__init__()
        self._units, self._unit, self._place = units, unit, place

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._units[self._unit](self._place, *args, **kwargs)


def layer_units(*stacks: nn.ModuleList) -> tuple[nn.ModuleList, list[nn.ModuleList]]:
    """Units of all layers, and the stacks again, each layer now called through its unit.

    A layer shares parameters with the layers of one unit at most.
    """
    members: list[list[nn.Module]] = []
    homes: dict[nn.Parameter, int] = {}
    places: list[list[tuple[int, int]]] = []
    for stack in stacks:
        places.append([])
        for layer in stack:
            found = {homes[parameter] for parameter in layer.parameters() if parameter in homes}
            assert len(found) <= 1, "a layer shares parameters with layers of two units"
            unit = found.pop() if found else len(members)
            if unit == len(members):
                members.append([])
            places[-1].append((unit, len(members[unit])))
            members[unit].append(layer)
            homes |= dict.fromkeys(layer.parameters(), unit)
    units = nn.ModuleList(LayerUnit(layers) for layers in members)
    return units, [nn.ModuleList(_InUnit(units, *at) for at in stack) for stack in places]


def parameter_owners(model: nn.Module, leave_out: str) -> Iterator[nn.Module]:
    """The modules of a model that have parameters of their own, but for one submodule's."""
    for name, module in model.named_modules():
        if module._parameters and not f"{name}.".startswith(f"{leave_out}."):
            yield module


def fsdp_settings(num_processes: int) -> FullyShardedDataParallelPlugin | None:
    """How `accelerate` is configured to shard; None where it is not, or there is one process.

    Raises SettingsError for FSDP's first version, which cannot share parameters inside a unit,
    and where `transformers` would load the teacher's weights in the first process alone.
    """
    if num_processes == 1 or not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise SettingsError(
            "sharding needs FSDP 2: set fsdp_version to 2, as boomerang_core/recipes/fsdp.yaml does"
        )
    if plugin.cpu_ram_efficient_loading:
        raise SettingsError(
            "every process needs the teacher's weights: set fsdp_cpu_ram_efficient_loading to "
            "false, as boomerang_core/recipes/fsdp.yaml does"
        )
    return plugin


def checkpoint_units(units: nn.ModuleList) -> None:
    """Keep of a unit's forward pass its inputs alone, and run it again for the backward pass."""
    for index, unit in enumerate(units):
        units[index] = checkpoint_wrapper(unit)


def shard(
    root: nn.Module,
    units: nn.ModuleList,
    own: dict[str, nn.Parameter],
    plugin: FullyShardedDataParallelPlugin,
    precision: torch.dtype,
) -> dict[str, nn.Parameter]:
    """Shard every unit, and what is left at the root, in place over all processes.

    `own` are parameters by name, each process's set to the first's; returned sharded.  The dict
    is emptied, so that nothing holds them whole.  Units are gathered in `precision`.
    """
    device = next(iter(own.values())).device
    names = {parameter: name for name, parameter in own.items()}
    places = {
        names[parameter]: (module, attribute)
        for module in root.modules()
        for attribute, parameter in module._parameters.items()
        if parameter in names
    }
    while own:
        torch.distributed.broadcast(own.popitem()[1].data, 0)
    names.clear()
    _shard(root, units, plugin, precision, device)
    return {name: module.get_parameter(at) for name, (module, at) in places.items()}


def _shard(
    root: nn.Module, units: nn.ModuleList, plugin: Any, precision: torch.dtype, device: torch.device
) -> None:
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # the matrix products are in this precision anyway; hidden states stay as they come
    policy = MixedPrecisionPolicy(precision, torch.float32, cast_forward_inputs=False)
    for unit in units:
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=plugin.reshard_after_forward,
            offload_policy=plugin.cpu_offload,
            mp_policy=policy,
        )
    fully_shard(root, mesh=mesh, offload_policy=plugin.cpu_offload)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor, which every process must ask for; another as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A new tensor on `like`'s device; where that is sharded, this process's part of it.

    Nothing is sent: every process has the whole.
    """
    if not isinstance(like, DTensor):
        return tensor.to(like.device, copy=True)
    mesh, placements = like.device_mesh, like.placements
    # its part is put where the mesh is, which is not where a parameter waits that is offloaded
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None).to(like.device)


def make_whole(model: nn.Module, device: torch.device) -> None:
    """Give a model its whole, frozen parameters back; every process must do so."""
    found: dict[nn.Parameter, nn.Parameter] = {}  # a tied matrix stays one parameter
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                if parameter not in found:
                    found[parameter] = nn.Parameter(whole(parameter).to(device), False)
                module._parameters[name] = found[parameter]
