"""One row per architecture: how vLLM builds its layers, and what its checkpoint calls them.

A new architecture is a new row.  Names are those of the teacher's checkpoint; the routed model
keeps teacher and student as two parties with the same parts, so a row serves both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from boomerang_core.errors import ArchitectureError
from server.engine import compat

LayerMaker = Callable[[Any, Any, str], Any]
"""(vLLM config, Hugging Face config, prefix) → decoder layer."""


@dataclass(frozen=True)
class EngineRow:
    """An architecture in vLLM.

    `residual`: layers are called with (positions, hidden, residual) and return both; otherwise
    with (hidden).  `positions`: the learned position embedding, where there is one.
    `optional_prefix`: what some checkpoints leave out of every name.  `transposed`: linear maps
    whose weights the checkpoint stores as (in, out).
    """

    make_layer: LayerMaker
    make_norm: Callable[[Any], Any]
    stacked_names: Callable[[], Any]
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    positions: str | None = None
    residual: bool = True
    optional_prefix: str = ""
    transposed: tuple[str, ...] = ()

    def local_name(self, name: str) -> str:
        """A checkpoint's tensor name → its name within a party (`layers.3.…`, `head.weight`)."""
        if self.optional_prefix and not name.startswith((self.optional_prefix, f"{self.head}.")):
            name = self.optional_prefix + name
        parts = {
            self.layers: "layers",
            self.embedding: "embedding",
            self.norm: "norm",
            self.head: "head",
            **({self.positions: "positions"} if self.positions else {}),
        }
        for theirs, ours in parts.items():
            if name.startswith(f"{theirs}."):
                return ours + name.removeprefix(theirs)
        return name

    def is_transposed(self, name: str) -> bool:
        """Whether the checkpoint stores this weight as (in, out)."""
        return name.endswith(tuple(f"{linear}.weight" for linear in self.transposed))


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


ROWS: Mapping[str, EngineRow] = {
    "LlamaForCausalLM": EngineRow(_llama, _rms_norm, lambda: compat.LlamaModel.hf_to_vllm_mapper),
    "MistralForCausalLM": EngineRow(
        _mistral, _rms_norm, lambda: compat.LlamaModel.hf_to_vllm_mapper
    ),
    "Qwen2ForCausalLM": EngineRow(
        _from_parts("Qwen2DecoderLayer"), _rms_norm, lambda: compat.Qwen2Model.hf_to_vllm_mapper
    ),
    "Qwen3ForCausalLM": EngineRow(
        _from_parts("Qwen3DecoderLayer"), _rms_norm, lambda: compat.Qwen2Model.hf_to_vllm_mapper
    ),
    "GPT2LMHeadModel": EngineRow(
        _from_parts("GPT2Block"),
        _gpt2_norm,
        lambda: compat.GPT2Model.hf_to_vllm_mapper,
        layers="transformer.h",
        embedding="transformer.wte",
        norm="transformer.ln_f",
        positions="transformer.wpe",
        residual=False,
        optional_prefix="transformer.",
        transposed=("c_attn", "c_proj", "c_fc"),
    ),
}
"""Hugging Face architecture → its row."""


def row_of(architecture: str) -> EngineRow:
    """The row of an architecture; `ArchitectureError` where vLLM cannot serve it."""
    if architecture not in ROWS:
        raise ArchitectureError(
            f"{architecture} cannot be served: vLLM {compat.VERSION} has no model for it that we "
            f"route; those that work are {', '.join(sorted(ROWS))}"
        )
    return ROWS[architecture]
