"""Which weights the engine holds: parts are released, and read again, while it runs.

A part that is not held is out of the model's module tree, so that nothing vLLM does to a whole
model (post-processing, the check of what was loaded) meets it, and its parameters have no storage.
It comes back the way it came first: empty parameters, vLLM's weight loaders, vLLM's
post-processing, which on a CPU packs the weights of linear maps away.
"""

import ctypes
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.checkpoint_files import weight_files
from boomerang_core.errors import EngineError
from boomerang_core.memory_plan import End, EndRef, Part, Span
from boomerang_core.route import LayerRef, Owner
from server.engine.compat import get_tp_group, set_current_vllm_config

logger = logging.getLogger(__name__)

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


def hold_sizes(worker: Any, span: Span) -> int | str:
    """On a worker: hold what these sizes need, and nothing else; the bytes that it holds then.

    No request of another size may be running.  What went wrong comes back as text and is never
    raised: vLLM raises at the first rank that failed and leaves the replies of the others in their
    queues, where the next call, whatever it asks, would take them for its own.
    """
    try:
        with set_current_vllm_config(worker.vllm_config):
            return _hold_sizes(worker.model_runner, span)
    except Exception as error:
        logger.exception("could not change to %s", span)
        return str(error) or type(error).__name__


def _hold_sizes(runner: Any, span: Span) -> int:
    model = runner.get_model()
    was_frozen = gc.get_freeze_count() > 0
    try:
        _change(runner, model, span)
    finally:
        give_memory_back()
        if was_frozen and not gc.get_freeze_count():
            gc.freeze()  # vLLM froze its heap at the end of the start, and a capture thaws it
    return int(model.resident_bytes)


def _change(runner: Any, model: Any, span: Span) -> None:
    """Change to those sizes on every rank.

    Where that fails on one, all of them hold what they held before, or less if `span` is less: the
    server offers nothing else then, and memory for more would lie there unused.

    Tracing and the capture of graphs compute on all ranks together: the others would wait there for
    ever for one that could not read.  So the ranks agree before, and here: between two calls from
    outside, a step could replay graphs of weights that are gone.
    """
    before = model.held

    def hold() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a step that was scheduled ahead may still run on what goes
        model.hold(span)

    def make_ready() -> None:
        model.prepare()
        runner.sizes_changed()

    try:
        _on_all_or_none(hold)
        _on_all_or_none(make_ready)
    except Exception:
        is_less = span.smallest in before and span.largest in before
        model.hold(span if is_less else before)
        runner.drop_graphs()
        raise


def _on_all_or_none(action: Callable[[], None]) -> None:
    """Do it on every rank; raises on each of them where it fails on any."""
    failure: Exception | None = None
    try:
        action()
    except Exception as error:
        failure = error
    if not on_every_rank(failure is None):
        raise failure or EngineError("another rank could not change its weights")


def on_every_rank(fine: bool) -> bool:
    """Whether all is well on every rank; each of them must ask, and waits for the others."""
    votes = torch.tensor(int(fine))
    smallest = torch.distributed.ReduceOp.MIN
    torch.distributed.all_reduce(votes, smallest, group=get_tp_group().cpu_group)
    return bool(votes)


def give_memory_back() -> None:
    """Hand freed memory to the system: glibc and torch's allocators keep it otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
