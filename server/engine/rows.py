"""One row per architecture that vLLM can route: how vLLM builds and calls its layers.

What the checkpoint calls its modules is in `boomerang_core.architectures`; a new architecture is
a row there and a row here.  The routed model keeps teacher and student as two parties with the
same parts, so a row serves both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from boomerang_core.architectures import ARCHITECTURES, Architecture
from boomerang_core.errors import ArchitectureError
from server.engine import compat

LayerMaker = Callable[[Any, Any, str], Any]
"""(vLLM config, Hugging Face config, prefix) → decoder layer."""


@dataclass(frozen=True)
class EngineRow:
    """An architecture in vLLM.

    `make_norm`: Hugging Face config → the final norm.  `stacked_names`: the model class whose
    table says which of the checkpoint's linear maps vLLM fuses.  `residual`: layers are called
    with (positions, hidden, residual) and return (hidden, residual); otherwise with (hidden).
    `optional_prefix`: what some checkpoints leave out of every name.
    """

    names: Architecture
    make_layer: LayerMaker
    make_norm: Callable[[Any], Any]
    stacked_names: str
    residual: bool = True
    optional_prefix: str = ""

    def mapper(self) -> Any:
        """vLLM's map of checkpoint names, for fused linear maps."""
        return getattr(compat, self.stacked_names).hf_to_vllm_mapper

    def local_name(self, name: str) -> str:
        """A checkpoint's tensor name → its name within a party (`layers.3.…`, `head.weight`)."""
        names = self.names
        if self.optional_prefix and not name.startswith((self.optional_prefix, f"{names.head}.")):
            name = self.optional_prefix + name
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


def _llama(vllm_config: Any, config: Any, prefix: str) -> Any:
    return compat.LlamaDecoderLayer(vllm_config=vllm_config, config=config, prefix=prefix)


def _mistral(vllm_config: Any, config: Any, prefix: str) -> Any:
    return compat.MistralDecoderLayer(vllm_config=vllm_config, config=config, prefix=prefix)


def _from_parts(layer_name: str) -> LayerMaker:
    def make(vllm_config: Any, config: Any, prefix: str) -> Any:
        layer: Any = getattr(compat, layer_name)
        return layer(
            config=config,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=prefix,
        )

    return make


def _rms_norm(config: Any) -> Any:
    return compat.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


def _gpt2_norm(config: Any) -> Any:
    return compat.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


_ROWS = (
    EngineRow(ARCHITECTURES["LlamaForCausalLM"], _llama, _rms_norm, "LlamaModel"),
    EngineRow(ARCHITECTURES["MistralForCausalLM"], _mistral, _rms_norm, "LlamaModel"),
    EngineRow(
        ARCHITECTURES["Qwen2ForCausalLM"], _from_parts("Qwen2DecoderLayer"), _rms_norm, "Qwen2Model"
    ),
    EngineRow(
        ARCHITECTURES["Qwen3ForCausalLM"], _from_parts("Qwen3DecoderLayer"), _rms_norm, "Qwen2Model"
    ),
    EngineRow(
        ARCHITECTURES["GPT2LMHeadModel"],
        _from_parts("GPT2Block"),
        _gpt2_norm,
        "GPT2Model",
        residual=False,
        optional_prefix="transformer.",
    ),
)

ROWS: Mapping[str, EngineRow] = {row.names.name: row for row in _ROWS}
"""Hugging Face architecture → its row."""


def row_of(architecture: str) -> EngineRow:
    """The row of an architecture; `ArchitectureError` where vLLM cannot serve it."""
    if architecture not in ROWS:
        raise ArchitectureError(
            f"{architecture} cannot be served: vLLM {compat.VERSION} has no model for it that we "
            f"route; those that work are {', '.join(sorted(ROWS))}"
        )
    return ROWS[architecture]
