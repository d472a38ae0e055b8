"""One row per architecture: what its modules are called.  A new architecture is a row and a test.

Pure strings: importing this loads no torch.  Module paths are those of the transformers model;
names within a layer are relative to the layer.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from boomerang_core.errors import ArchitectureError, SettingsError
from boomerang_core.footprint import ModelShape


class Maps(StrEnum):
    """Which linear maps of a layer."""

    ALL = "all"
    ATTENTION = "attention"
    MLP = "mlp"


@dataclass(frozen=True)
class Architecture:
    """The names of one transformers architecture.

    `name` is the Hugging Face class; `positions` the learned position embedding, where there is
    one.  `down_map` is the layer's last linear map before the residual sum.  `conv1d`: linear
    weights are stored as (in, out).  `norms` hold the parameters that a low-rank student owns.
    `per_layer` are config lists with one entry a layer.  `refused`: config switches under which a
    layer depends on its place or on a second model, with the reason.
    """

    name: str
    model_type: str
    layers: str
    embedding: str
    norm: str
    linear_maps: tuple[str, ...]
    norms: tuple[str, ...]
    down_map: str
    head: str = "lm_head"
    positions: str | None = None
    conv1d: bool = False
    num_layers: str = "num_hidden_layers"
    per_layer: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        assert self.down_map in self.linear_maps

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The modules that turn tokens into the first layer's input."""
        return (self.embedding,) if self.positions is None else (self.embedding, self.positions)

    def maps(self, which: Maps) -> tuple[str, ...]:
        """Those linear maps; the MLP's are the ones beside `down_map`."""
        if which is Maps.ALL:
            return self.linear_maps
        mlp = self.down_map.rpartition(".")[0]
        in_mlp = tuple(name for name in self.linear_maps if name.rpartition(".")[0] == mlp)
        if which is Maps.MLP:
            return in_mlp
        return tuple(name for name in self.linear_maps if name not in in_mlp)

    def layer_name(self, index: int, name: str) -> str:
        """The tensor `name` of layer `index`, as the checkpoint calls it."""
        return f"{self.layers}.{index}.{name}"


_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
_NORMS = ("input_layernorm", "post_attention_layernorm")


def _llama_like(
    name: str,
    model_type: str,
    norms: tuple[str, ...] = _NORMS,
    per_layer: tuple[str, ...] = (),
) -> Architecture:
    return Architecture(
        name=name,
        model_type=model_type,
        layers="model.layers",
        embedding="model.embed_tokens",
        norm="model.norm",
        linear_maps=(*_ATTENTION, *_MLP),
        norms=norms,
        down_map="mlp.down_proj",
        per_layer=per_layer,
    )


_ROWS = (
    _llama_like("LlamaForCausalLM", "llama"),
    _llama_like("MistralForCausalLM", "mistral"),
    _llama_like("Qwen2ForCausalLM", "qwen2", per_layer=("layer_types",)),
    _llama_like(
        "Qwen3ForCausalLM",
        "qwen3",
        norms=(*_NORMS, "self_attn.q_norm", "self_attn.k_norm"),
        per_layer=("layer_types",),
    ),
    Architecture(
        name="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        layers="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
        linear_maps=(
            "attention.query_key_value",
            "attention.dense",
            "mlp.dense_h_to_4h",
            "mlp.dense_4h_to_h",
        ),
        norms=_NORMS,
        down_map="mlp.dense_4h_to_h",
    ),
    Architecture(
        name="GPT2LMHeadModel",
        model_type="gpt2",
        layers="transformer.h",
        embedding="transformer.wte",
        positions="transformer.wpe",
        norm="transformer.ln_f",
        linear_maps=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
        norms=("ln_1", "ln_2"),
        down_map="mlp.c_proj",
        conv1d=True,
        num_layers="n_layer",
        refused=(
            ("scale_attn_by_inverse_layer_idx", "its layers change with their place"),
            ("add_cross_attention", "its layers attend to an encoder"),
        ),
    ),
)

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}
"""Hugging Face architecture class → its row."""

_BY_MODEL_TYPE = {row.model_type: row for row in _ROWS}


def architecture_of(config: Any) -> Architecture:
    """The row of a transformers config.

    Raises `ArchitectureError` where there is none, or where the config turns on what a row refuses.
    """
    names = getattr(config, "architectures", None) or []
    model_type = getattr(config, "model_type", None)
    row = ARCHITECTURES.get(names[0]) if names else _BY_MODEL_TYPE.get(str(model_type))
    if row is None:
        raise ArchitectureError(
            f"there is no row for the architecture {names[0] if names else model_type!r}; "
            f"there are {', '.join(sorted(ARCHITECTURES))}"
        )
    for switch, reason in row.refused:
        if getattr(config, switch, False):
            raise ArchitectureError(f"{row.name} with {switch} cannot be resized: {reason}")
    return row


def check_row_length(config: Any, tokens: int) -> None:
    """Raise `SettingsError` for a row that is longer than a model's learned positions.

    Models without such positions take any length.
    """
    if architecture_of(config).positions is None:
        return
    if tokens > config.max_position_embeddings:
        raise SettingsError(
            f"a row of {tokens} tokens is too long: the teacher has learned positions, "
            f"and takes at most {config.max_position_embeddings}"
        )


def shallower(config: Any, layers: Sequence[int]) -> Any:
    """A copy of a transformers config for a model of those of its layers, in that order."""
    row = architecture_of(config)
    cut = copy.deepcopy(config)
    setattr(cut, row.num_layers, len(layers))
    for name in row.per_layer:
        if (values := getattr(config, name, None)) is not None:
            setattr(cut, name, [values[layer] for layer in layers])
    return cut


def model_shape(model: Any) -> ModelShape:
    """Parameter counts and KV shape of a transformers model; it may be on the meta device.

    Two bytes a parameter, as served, whatever dtype the model is loaded in.
    """
    config = model.config
    row = architecture_of(config)
    layers = model.get_submodule(row.layers)
    counts = {_count(layer) for layer in layers}
    if len(counts) != 1:
        raise ArchitectureError("the teacher's layers must all have the same number of parameters")
    heads = config.num_attention_heads
    return ModelShape(
        num_layers=len(layers),
        hidden_size=config.hidden_size,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        layer_params=counts.pop(),
        embedding_params=sum(_count(model.get_submodule(path)) for path in row.embeddings),
        head_params=_count(model.get_submodule(row.head)),
        norm_params=_count(model.get_submodule(row.norm)),
        tied=bool(config.tie_word_embeddings),
    )


def shape_of(config: Any) -> ModelShape:
    """The shape of a model of this config, without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    architecture_of(config)
    with torch.device("meta"):
        return model_shape(AutoModelForCausalLM.from_config(config))


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
