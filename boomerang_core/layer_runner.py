"""Runs single layers of a transformers model over rows of hidden states.

Shapes: B rows at a time, R rows in all, L tokens a row, D hidden, V vocabulary.

A decoder layer needs more than its input: a mask, rotary embeddings, position ids.  They depend
on the row length alone, so they are recorded once, from the model's own forward pass, and every
later call of a layer gets the same ones.  No architecture needs a forward pass of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from boomerang_core.architectures import architecture_of, check_row_length
from boomerang_core.errors import DataError


@dataclass(frozen=True)
class _Call:
    """What the model passes to a layer beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class LayerRunner:
    """A model taken apart: `embed`, `run` any one layer, `head`.

    `row_length` fixes L; the model is only referenced and must be in eval mode.  `compiled`
    makes `layers` compiled ones around the same parameters: for many steps of one shape.
    Raises SettingsError for rows longer than the model can take.
    """

    def __init__(self, model: Any, row_length: int, compiled: bool = False) -> None:
        check_row_length(model.config, row_length)
        self.architecture = architecture_of(model.config)
        self._layers: nn.ModuleList = model.get_submodule(self.architecture.layers)
        self.norm: nn.Module = model.get_submodule(self.architecture.norm)
        self._model = model
        self._calls = self._record(row_length)
        self.layers = compile_layers(self._layers) if compiled else self._layers

    @property
    def device(self) -> torch.device:
        """Where the model is; hidden states live there too."""
        return next(self.norm.parameters()).device

    def _record(self, row_length: int) -> list[_Call]:
        calls: list[_Call] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(_Call(args[1:], kwargs))

        handles = [
            layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self._layers
        ]
        with torch.no_grad():
            ids_BL = torch.zeros(1, row_length, dtype=torch.int64, device=self.device)
            self._model.base_model(ids_BL, use_cache=False)
        for handle in handles:
            handle.remove()
        return calls

    def embed(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """What enters the first layer (B, L, D), position embeddings included.

        Raises DataError for tokens that the model does not know, as far as they are on the CPU.
        """
        if ids_BL.device.type == "cpu":  # elsewhere looking would wait for the device
            require_known(self._model, ids_BL)
        entered: list[torch.Tensor] = []

        class _StopForwardError(Exception):
            """Stops the forward pass at the first layer."""

        def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
            entered.append(args[0])
            raise _StopForwardError

        handle = self._layers[0].register_forward_pre_hook(stop)
        try:
            self._model.base_model(ids_BL.to(self.device), use_cache=False)
        except _StopForwardError:
            pass
        finally:
            handle.remove()
        return entered[0]

    def run(
        self,
        layer: nn.Module,
        place: int,
        hidden_BLD: torch.Tensor,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """One layer's output (B, L, D), called as the model calls its layer `place`.

        `weights` replace the layer's own by name for this call.
        """
        call = self._calls[place]
        args = (hidden_BLD, *call.args)
        if weights is None:
            out = layer(*args, **call.kwargs)
        else:
            out = torch.func.functional_call(layer, weights, args, call.kwargs, strict=False)
        output_BLD: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return output_BLD

    def states(self, hidden_BLD: torch.Tensor) -> Iterator[torch.Tensor]:
        """What comes out of each layer (B, L, D), from what enters the first."""
        for place, layer in enumerate(self.layers):
            hidden_BLD = self.run(layer, place, hidden_BLD)
            yield hidden_BLD

    def head(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        """Final norm and LM head: logits (B, L, V)."""
        logits: torch.Tensor = self._model.get_output_embeddings()(self.norm(hidden_BLD))
        return logits

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """What `head` computes with."""
        for module in (self.norm, self._model.get_output_embeddings()):
            yield from module.parameters()


def require_known(model: Any, *texts: torch.Tensor) -> None:
    """Raise DataError for a token that has no embedding: the tokenizer is another model's."""
    count = model.get_input_embeddings().num_embeddings
    most = max((int(ids.max()) for ids in texts if ids.numel()), default=0)
    if most >= count:
        raise DataError(
            f"the tokenizer gives the text a token {most}, and the model's embedding has {count}: "
            "they do not belong together"
        )


def compile_layers(layers: nn.ModuleList) -> nn.ModuleList:
    """Compiled twins of layers, each specialised to the shapes that it meets."""
    # all layers share one code object, and each is a specialisation of it; so is each grad mode
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 512)
    return nn.ModuleList(cast(nn.Module, torch.compile(layer, dynamic=False)) for layer in layers)


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover `count` rows, `size` at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
