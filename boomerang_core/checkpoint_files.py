"""The files of a checkpoint: which of them are read, and what their contents go by; no torch."""

import hashlib
import json
import math
from pathlib import Path

from boomerang_core.contents import sha256_of
from boomerang_core.errors import CheckpointError
from boomerang_core.files import copy_file
from boomerang_core.headers import tensor_shapes

CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")
"""What goes with the weights, beside the config."""

SHARDS = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: one, or those of an index, or all there are.

    Some checkpoints hold their weights a second time, in files of another layout.  Raises
    `CheckpointError` where there is none, or one that the index lists is missing.
    """
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    index = folder / SHARDS
    files = _shards(index) if index.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no safetensors; other weight files are not read")
    return files


def stored_params(folder: Path) -> int:
    """Numbers in all weights that transformers reads, by their headers alone.

    Raises `CheckpointError`.
    """
    shapes = (shape for file in weight_files(folder) for shape in tensor_shapes(file).values())
    return sum(map(math.prod, shapes))


def shard_index(folder: Path) -> Path | None:
    """The index of the weights, where it is read."""
    index = folder / SHARDS
    return index if index.is_file() and not (folder / _WEIGHTS).is_file() else None


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        shards = sorted(index.parent / Path(name).name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read the checkpoint {index}: {error!r}") from error
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{index.parent} lacks {missing[0].name}, which {SHARDS} lists")
    return shards


def companions(folder: Path) -> list[Path]:
    """The tokenizer's files and the generation config."""
    return sorted({path for pattern in COMPANIONS for path in folder.glob(pattern)})


def copy_companions(folder: Path, out: Path) -> None:
    """Copy what goes with the weights: the tokenizer's files and the generation config."""
    for path in companions(folder):
        copy_file(path, out / path.name)


def checkpoint_sha256(folder: Path) -> str:
    """One sha256 for what decides what a checkpoint computes; reads every weight."""
    files = [folder / CONFIG, *weight_files(folder), *companions(folder)]
    lines = [f"{path.name} {sha256_of(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
