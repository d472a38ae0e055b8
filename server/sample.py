"""`boomerang sample`: text to distil on that the teacher writes itself, by vLLM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boomerang_core.cli.common import Seed, Teacher, plain_errors, require_file_place
from boomerang_core.errors import SettingsError, install_hint
from boomerang_core.sizes import parse_bytes
from server.process.environment import prepare_environment
from server.settings import read_settings

if TYPE_CHECKING:
    import torch

    from boomerang_core.text.documents import Drawn, Text


def sample(
    teacher: Teacher,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of text to write.")],
    out: Annotated[Path, typer.Option(help="The JSONL file to write, for --text of make.")],
    chat_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of chat tokens (default: half, if it can chat)."),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="Text to start from, as --text of make; may be repeated."),
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Most tokens added to a prompt.")] = 192,
    seed: Seed = 0,
    kv_cache_bytes: Annotated[
        str | None,
        typer.Option(
            help="Memory for the KV cache, as 4GiB (default: all left on a GPU; 1GiB on a CPU)."
        ),
    ] = None,
) -> None:
    """Let a teacher write text to distil on, by vLLM.

    A stopped run resumes: finished rounds stay in OUT.parts until all are there.
    """
    with plain_errors():
        require_file_place(out)
        if out.suffix != ".jsonl":
            raise SettingsError(f"--out is a JSONL file and must be named so: {out.stem}.jsonl")
        memory = None if kv_cache_bytes is None else parse_bytes(kv_cache_bytes, "kv_cache_bytes")
        prepare_environment(read_settings(), logging_config=None)
        # One process: requests are scheduled in the same order every time, so the text repeats.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        text = _write(teacher, out, tokens, chat_share, prompts or (), length, seed, memory)
        for line in text.lines:
            typer.echo(line)


def _write(
    teacher: str,
    out: Path,
    tokens: int,
    chat_share: float | None,
    sources: Sequence[str],
    length: int,
    seed: int,
    kv_cache_bytes: int | None,
) -> Text:
    """Check everything that is cheap to check, then start the engine and write."""
    from boomerang_core.checkpoint import load_tokenizer, parse_teacher, teacher_folder
    from boomerang_core.distill.prompts import teacher_prompts
    from boomerang_core.distill.sampling import save_samples
    from boomerang_core.text.documents import Text

    folder = teacher_folder(parse_teacher(teacher))
    tokenizer = load_tokenizer(folder)
    share = _share(tokenizer, chat_share)
    beginnings = _beginnings(sources, tokenizer, tokens, seed)
    sampler = _sampler()(folder, length, len(tokenizer), tokenizer.eos_token_id, kv_cache_bytes)

    parts = out.with_name(f"{out.name}.parts")

    def documents() -> Iterator[Drawn]:
        chat = round(tokens * share)
        for kind, quota in (("chat", chat), ("text", tokens - chat)):
            prompts = teacher_prompts(tokenizer, beginnings, seed)
            chosen = (prompt for prompt in prompts if prompt.chat is (kind == "chat"))
            yield from sampler.documents(chosen, quota, seed, teacher, parts / kind)

    written = save_samples(documents(), tokenizer, out)
    shutil.rmtree(parts, ignore_errors=True)
    return Text(tuple(written), tokens, share)


def _sampler() -> Any:
    """The engine's side, which imports vLLM.  Raises SettingsError where that is not installed."""
    try:
        from server.engine.sampling import Sampler
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "vllm":
            raise
        raise SettingsError(f"sample needs vLLM: {install_hint('cpu')}, or [gpu]") from error
    return Sampler


def _share(tokenizer: Any, chat_share: float | None) -> float:
    """The share of chat: what is asked for, or half where the teacher has a chat template."""
    from boomerang_core.text.documents import CHAT_SHARE, has_chat_template

    if has_chat_template(tokenizer):
        return CHAT_SHARE if chat_share is None else chat_share
    if chat_share:
        raise SettingsError(
            f"--chat-share {chat_share} needs a chat template; the teacher's tokenizer has none"
        )
    return 0.0


def _beginnings(
    sources: Sequence[str], tokenizer: Any, tokens: int, seed: int
) -> list[torch.Tensor]:
    """Documents whose beginnings are prompts; no more of them than are to be written."""
    from boomerang_core.text.documents import read_text

    found = read_text(sources, tokenizer, tokens, seed).raw
    if sources and not found:
        raise SettingsError("--prompts needs raw text; those sources hold chat alone")
    return found
