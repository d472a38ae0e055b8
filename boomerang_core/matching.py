"""Whether a student fits its teacher: settings, tokenizer, block map, and what it computes.

Each check raises one error that says what does not match.  Shapes: L layers of a checkpoint,
N numbers of each, S layers of the student, T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from boomerang_core.architectures import Architecture, architecture_of
from boomerang_core.assemble import assemble
from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import as_one_error, load_tokenizer
from boomerang_core.checkpoint_files import weight_files
from boomerang_core.errors import BlockMapError, CheckpointError
from boomerang_core.route import Route
from boomerang_core.student import Student

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What decides what a layer, an embedding or a head computes; a model has those that it knows.
_SETTINGS = (
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "hidden_act",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "use_parallel_residual",
    "scale_attn_weights",
    "sliding_window",
    "tie_word_embeddings",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token")  # training code often sets pad_token anew
_PROBE_TEXT = "Two cafés, 3.14 naïve “tokens”;\n\tdef f(x):  return x**2  # 東京 🪃"
_PROBE_TOKENS = 32
_SAMPLE_ROWS = 64  # of a matrix: enough, since unrelated ones have a cosine of about 0.002
_CLEAR = 0.2
_TOLERANCE = 1e-3


def check_settings(teacher: Any, student: Any, kept: Sequence[int]) -> None:
    """Compare two transformers configs of one architecture; `kept` are the student's layers.

    A padded vocabulary must be padded alike: rows that no token has still take part in softmax.
    Raises `CheckpointError`, which names every setting that differs.
    """
    ours, theirs = _settings(teacher), _settings(student)
    for name in architecture_of(teacher).per_layer:
        entries = getattr(teacher, name, None) or []
        ours[name] = [entries[layer] for layer in kept] if entries else []
        theirs[name] = list(getattr(student, name, None) or [])
    differing = [
        f"{name} is {theirs[name]!r}, not {value!r}"
        for name, value in ours.items()
        if theirs[name] != value
    ]
    if differing:
        raise CheckpointError(f"the student does not fit the teacher: {'; '.join(differing)}")


def _settings(config: Any) -> dict[str, Any]:
    heads = config.num_attention_heads
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    settings = {name: getattr(config, name, None) for name in _SETTINGS} | {
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or width // heads,
        "intermediate_size": inner or 4 * width,
    }
    if architecture_of(config).positions is not None:
        settings["max_position_embeddings"] = config.max_position_embeddings
    return settings


def check_tokenizers(teacher: Path, student: Path, student_config: Any) -> None:
    """Compare the tokenizers of two checkpoint folders: tokens, special tokens, a probe text.

    A student without one has nothing to compare.  Raises `CheckpointError`.
    """
    if not any((student / name).is_file() for name in _VOCABULARIES):
        return
    ours, theirs = load_tokenizer(teacher), load_tokenizer(student, student_config)
    ids, other = ours.get_vocab(), theirs.get_vocab()
    if differing := sorted(ids.items() ^ other.items(), key=lambda item: (item[1], item[0])):
        token = differing[0][0]
        raise CheckpointError(
            f"the tokenizers differ: the token {token!r} has the id {other.get(token)} in the "
            f"student's and {ids.get(token)} in the teacher's"
        )
    for name in _SPECIAL_TOKENS:
        if (special := getattr(theirs, name)) != (expected := getattr(ours, name)):
            raise CheckpointError(
                f"the tokenizers differ: the student's {name} is {special!r}, not {expected!r}"
            )
    if theirs(_PROBE_TEXT)["input_ids"] != ours(_PROBE_TEXT)["input_ids"]:
        raise CheckpointError("the tokenizers split the same text into different tokens")


def stored_dtype(folder: Path) -> torch.dtype:
    """The floating-point type of a checkpoint's weights; the widest where they differ.

    Raises `CheckpointError` for any other type.
    """
    found = {weight.get_dtype() for _, weight in _weights(folder)}
    if unknown := sorted(found - _DTYPES.keys()):
        raise CheckpointError(
            f"{folder} stores weights as {unknown[0]}; a student is float32, float16 or bfloat16"
        )
    return _DTYPES[found.pop()] if len(found) == 1 else torch.float32


def origins(teacher: Path, student: Path, row: Architecture) -> list[int | None]:
    """For each student layer, the teacher layer that it started from, by its weights.

    Training moves weights little: their cosine to those that they were copied from stays far
    above that to any other layer's.  None where no layer stands out.
    """
    teacher_LN, student_SN = (_layer_samples(folder, row) for folder in (teacher, student))
    if teacher_LN.shape[1:] != student_SN.shape[1:]:
        return [None] * len(student_SN)
    return [_standing_out(cosines_L) for cosines_L in student_SN @ teacher_LN.T]


def check_origins(found: Sequence[int | None], block_map: BlockMap) -> None:
    """Raise `BlockMapError` where a student layer started from another than its kept layer."""
    if len(found) != len(block_map):
        raise BlockMapError(
            f"the student's files have the weights of {len(found)} layers, its config.json and the "
            f"block map say {len(block_map)}"
        )
    for index, (origin, block) in enumerate(zip(found, block_map, strict=True)):
        if origin not in (None, block.kept):
            raise BlockMapError(
                f"layer {index} of the student comes from layer {origin} of the teacher, by its "
                f"weights, and not from {block.kept}, as the block map says; {suggestion(found)}"
            )


def suggestion(found: Sequence[int | None]) -> str:
    """How a user can say which teacher layers a student keeps."""
    if None in found:
        return "give --kept 0,2,4,… or --layout"
    return f"its weights say --kept {','.join(map(str, found))}"


@torch.inference_mode()
def check_logits(teacher: Any, student: Student, smallest: Route, checkpoint: Any) -> None:
    """Raise `CheckpointError` unless the assembled student computes what its checkpoint does.

    For settings that no list above knows of.  `checkpoint` is the student's own model, which is
    brought to the teacher's dtype.
    """
    dtype = teacher.get_submodule(architecture_of(teacher.config).embedding).weight.dtype
    for parameter in checkpoint.parameters():  # not buffers, which hold rotary frequencies
        parameter.data = parameter.data.to(dtype)
    config = checkpoint.config
    count = min(_PROBE_TOKENS, config.max_position_embeddings)
    ids_1T = (torch.arange(count)[None] * 7919) % config.vocab_size
    expected_TV = checkpoint(ids_1T).logits[0].float()
    found_TV = assemble(teacher, student, smallest)(ids_1T).logits[0].float()
    error = ((found_TV - expected_TV).norm() / expected_TV.norm()).item()
    if not error <= _TOLERANCE:
        raise CheckpointError(
            f"with the teacher's settings, the student's logits are off by {error:.1%}: "
            "its config.json must differ in one that changes what it computes"
        )


def _weights(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and slice of every weight that is read of a checkpoint; nothing is read yet."""
    with as_one_error(folder):
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                names: list[str] = file.keys()
                for name in names:
                    if name.endswith(".weight"):
                        yield name, file.get_slice(name)


def _layer_samples(folder: Path, row: Architecture) -> torch.Tensor:
    """A part of one matrix of every layer (L, N), of length 1, in the order of the layers."""
    layers = row.layers.rpartition(".")[2]
    pattern = re.compile(rf"(?:^|\.){layers}\.(\d+)\.{re.escape(row.down_map)}\.weight$")
    found = {
        int(match[1]): weight[:_SAMPLE_ROWS].float().flatten()
        for name, weight in _weights(folder)
        if (match := pattern.search(name))
    }
    if not found:
        raise CheckpointError(f"{folder} has no weights of layers of a {row.name}")
    layers_LN = [found[index] for index in sorted(found)]
    if len({len(layer_N) for layer_N in layers_LN}) > 1:
        raise CheckpointError(f"the layers of {folder} differ in the shape of {row.down_map}")
    return torch.nn.functional.normalize(torch.stack(layers_LN))


def _standing_out(cosines_L: torch.Tensor) -> int | None:
    best = int(cosines_L.argmax())
    others = torch.cat([cosines_L[:best], cosines_L[best + 1 :]])
    clear = cosines_L[best] >= _CLEAR and (2 * others < cosines_L[best]).all()
    return best if clear else None
