"""One row per architecture that vLLM can route: how vLLM builds and calls its layers.

What the checkpoint calls its modules is in `boomerang_core.architectures`, and only there; a new
architecture is a row there and a row here.  The routed model keeps teacher and student as two
parties with the same parts, so a row serves both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from boomerang_core.architectures import ARCHITECTURES, Architecture
from boomerang_core.errors import ArchitectureError
from server.engine import compat
from server.engine.vllm_names import VERSION


def _whole_config(vllm_config: Any) -> dict[str, Any]:
    return {"vllm_config": vllm_config}


def _parts_of_config(vllm_config: Any) -> dict[str, Any]:
    return {"cache_config": vllm_config.cache_config, "quant_config": vllm_config.quant_config}


def _rms_norm(config: Any) -> Any:
    return compat.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


def _gpt2_norm(config: Any) -> Any:
    return compat.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


@dataclass(frozen=True)
class EngineArchitecture:
    """An architecture in vLLM.

    `layer` is vLLM's decoder layer, and `model` the class whose table says which of the
    checkpoint's linear maps vLLM fuses; both by their names in `compat`.  `layer_arguments`: what
    a layer takes of vLLM's config.  `make_norm`: Hugging Face config → the final norm.
    `residual`: layers are called with (positions, hidden, residual) and return (hidden, residual);
    otherwise with (hidden).
    """

    name: str
    layer: str
    model: str
    layer_arguments: Callable[[Any], dict[str, Any]] = _parts_of_config
    make_norm: Callable[[Any], Any] = _rms_norm
    residual: bool = True

    @property
    def names(self) -> Architecture:
        """What the checkpoint calls its modules."""
        return ARCHITECTURES[self.name]

    def make_layer(self, vllm_config: Any, config: Any, prefix: str) -> Any:
        """A decoder layer; `config` is the Hugging Face config, `prefix` its name in the model."""
        layer = getattr(compat, self.layer)
        return layer(config=config, prefix=prefix, **self.layer_arguments(vllm_config))

    def mapper(self) -> Any:
        """vLLM's map of checkpoint names, for fused linear maps."""
        return getattr(compat, self.model).hf_to_vllm_mapper

    def local_name(self, name: str) -> str:
        """A checkpoint's tensor name → its name within a party (`layers.3.…`, `head.weight`)."""
        names = self.names
        base = names.layers.partition(".")[0] + "."  # checkpoints of the bare model leave it out
        if not name.startswith((base, f"{names.head}.")):
            name = base + name
        parts = {
            names.layers: "layers",
            names.embedding: "embedding",
            names.norm: "norm",
            names.head: "head",
            **({names.positions: "positions"} if names.positions else {}),
        }
        for theirs, ours in parts.items():
            if name.startswith(f"{theirs}."):
                return ours + name.removeprefix(theirs)
        return name

    def is_transposed(self, name: str) -> bool:
        """Whether the checkpoint stores this weight as (in, out)."""
        linear_weights = tuple(f".{linear}.weight" for linear in self.names.linear_maps)
        return self.names.conv1d and name.endswith(linear_weights)


ENGINE_ARCHITECTURES: Mapping[str, EngineArchitecture] = {
    row.name: row
    for row in (
        EngineArchitecture("LlamaForCausalLM", "LlamaDecoderLayer", "LlamaModel", _whole_config),
        EngineArchitecture(
            "MistralForCausalLM", "MistralDecoderLayer", "LlamaModel", _whole_config
        ),
        EngineArchitecture("Qwen2ForCausalLM", "Qwen2DecoderLayer", "Qwen2Model"),
        EngineArchitecture("Qwen3ForCausalLM", "Qwen3DecoderLayer", "Qwen2Model"),
        EngineArchitecture(
            "GPT2LMHeadModel", "GPT2Block", "GPT2Model", make_norm=_gpt2_norm, residual=False
        ),
    )
}
"""Hugging Face architecture → how vLLM builds and calls it."""


def engine_architecture(name: str) -> EngineArchitecture:
    """The row of an architecture; `ArchitectureError` where vLLM cannot serve it."""
    if name not in ENGINE_ARCHITECTURES:
        raise ArchitectureError(
            f"{name} cannot be served: vLLM {VERSION} has no model for it that we "
            f"route; those that work are {', '.join(sorted(ENGINE_ARCHITECTURES))}"
        )
    return ENGINE_ARCHITECTURES[name]
