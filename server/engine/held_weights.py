"""Which weights the engine holds: parts are released, and read again, while it runs.

A part that is not held is out of the model's module tree, so that nothing vLLM does to a whole
model (post-processing, the check of what was loaded) meets it, and its parameters have no storage.
It comes back the way it came first: empty parameters, vLLM's weight loaders, vLLM's
post-processing, which on a CPU packs the weights of linear maps away.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.checkpoint_files import weight_files
from boomerang_core.memory_plan import End, EndRef, Part
from boomerang_core.route import LayerRef, Owner

Place = tuple[Owner, str]
"""An owner and a module of his: `layers.3`, `embedding`, `positions`, `norm` or `head`."""

_ENDS = {End.EMBEDDING: ("embedding", "positions"), End.HEAD: ("norm", "head")}
ENDS = ("embedding", "positions", "norm", "head")


def places_of(parts: Iterable[Part], tied: Mapping[Owner, bool]) -> frozenset[Place]:
    """The modules of some parts; a tied head needs the embedding that it shares."""
    places: set[Place] = set()
    for part in parts:
        if isinstance(part, LayerRef):
            places.add((part.owner, f"layers.{part.index}"))
            continue
        assert isinstance(part, EndRef)
        places |= {(part.owner, name) for name in _ENDS[part.end]}
        if part.end is End.HEAD and tied[part.owner]:
            places.add((part.owner, "embedding"))
    return frozenset(places)


def place_of(owner: Owner, name: str) -> Place:
    """Where a tensor belongs, by its name within the party: `layers.3.mlp.…`, `norm.weight`."""
    parts = name.split(".")
    return owner, ".".join(parts[:2] if parts[0] == "layers" else parts[:1])


@dataclass(frozen=True)
class _Blank:
    """A parameter as it was built: its class, shape and loader, and no values."""

    kind: type
    attributes: Mapping[str, Any]
    like: torch.Tensor
    device: torch.device

    @classmethod
    def of(cls, parameter: nn.Parameter) -> "_Blank":
        ghost = parameter.data.to("meta")
        return cls(type(parameter), dict(vars(parameter)), ghost, parameter.device)

    def on(self, device: torch.device) -> nn.Parameter:
        """A new parameter; zeros, as what a checkpoint leaves out is padding."""
        data = torch.zeros_like(self.like, device=device)
        parameter = nn.Parameter(data, requires_grad=False)
        parameter.__class__ = self.kind
        vars(parameter).update(self.attributes)
        return parameter


_META = torch.device("meta")


def _resident_bytes(parameters: Iterable[Any]) -> int:
    """Bytes of the tensors, each storage counted once however many names it has."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}
    return sum(storages.values())


class ModuleWeights:
    """The parameters of one module and its submodules, as they were built."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.nbytes = _resident_bytes(module.parameters())
        self._blanks = [
            (part, frozenset(vars(part)), {name: _Blank.of(p) for name, p in own.items()})
            for part in module.modules()
            if (own := dict(part.named_parameters(recurse=False)))
        ]

    def release(self) -> None:
        """Free the storage, and what post-processing made of it."""
        self._put(lambda blank: _META)

    def fill(self) -> None:
        """Give the parameters storage again, to be loaded into."""
        self._put(lambda blank: blank.device)

    def _put(self, where: Callable[[_Blank], torch.device]) -> None:
        for part, attributes, blanks in self._blanks:
            for name, blank in blanks.items():
                part.register_parameter(name, blank.on(where(blank)))
            for made_later in vars(part).keys() - attributes:
                delattr(part, made_later)


class HeldWeights:
    """The places of a model, and which of them are held."""

    def __init__(self, held: frozenset[Place]) -> None:
        self.held = held
        self._weights: dict[Place, ModuleWeights] = {}
        self._parties: Mapping[Owner, Any] = {}

    def built(self, place: Place, module: nn.Module) -> nn.Module:
        """Remember a module that was just built; one that is not held is emptied at once."""
        self._weights[place] = weights = ModuleWeights(module)
        if place not in self.held:
            weights.release()
        return module.eval()  # vLLM does that later, to what is in the tree then

    def settle(self, parties: Mapping[Owner, Any]) -> None:
        """All is built: take what is not held out of the module tree."""
        self._parties = parties
        self.held &= self._weights.keys()
        for place in self._weights.keys() - self.held:
            self._take_out(place)

    def release(self, places: Iterable[Place]) -> None:
        """Free the memory of places."""
        for place in self.held & frozenset(places):
            self._take_out(place)
            self._weights[place].release()
            self.held -= {place}

    def fill(self, places: Iterable[Place]) -> dict[Place, nn.Module]:
        """Put places back, with empty parameters: what is new among them, to be loaded."""
        wanted = frozenset(places) - self.held
        # In the order in which they were built: vLLM takes the first of two tied matrices for the
        # one that a checkpoint has, and that is the embedding.
        new = [place for place in self._weights if place in wanted]
        for place in new:
            self._weights[place].fill()
            parent, name = self._spot(place)
            parent.add_module(name, self._weights[place].module)
            self.held |= {place}  # each at once: what was filled before an error can be released
        for owner, name in new:
            party = self._parties[owner]
            if name == "head" and party.tied:
                party.head = party.head.tie_weights(party.embedding)
        return {place: self._weights[place].module for place in new}

    def knows(self, place: Place) -> bool:
        """Whether the model has such a place, held or not."""
        return place in self._weights

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are held, before vLLM packs them; a tied matrix once."""
        return sum(
            self._weights[owner, name].nbytes
            for owner, name in self.held
            if not (name == "head" and self._parties[owner].tied)
        )

    def _spot(self, place: Place) -> tuple[nn.Module, str]:
        owner, name = place
        first, _, index = name.partition(".")
        party: nn.Module = self._parties[owner]
        return (party.get_submodule(first), index) if index else (party, first)

    def _take_out(self, place: Place) -> None:
        parent, name = self._spot(place)
        delattr(parent, name)


def read_tensors(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
    """The wanted tensors of a checkpoint, by name; nothing is read of the others."""
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            names: list[str] = tensors.keys()
            for name in filter(wanted, names):
                yield name, tensors.get_tensor(name)
