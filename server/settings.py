"""Settings of the server: typed, read once, unknown ones refused.

Each field is an environment variable too: `port` is `BOOMERANG_PORT`.  Command-line options win.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from boomerang_core.errors import SettingsError, SizeError
from boomerang_core.residency import DEFAULT_CONTEXT, DEFAULT_REQUESTS
from boomerang_core.sizes import parse_bytes
from server.vllm_options import VllmOptions, read_options

PREFIX = "BOOMERANG_"


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")


def _bytes(value: object, field: ValidationInfo) -> int:
    """`256MiB` or a number of bytes; pydantic reports what is raised here."""
    try:
        return parse_bytes(value, field.field_name or "")
    except SizeError as error:
        raise ValueError(str(error)) from error


def _parts(value: object) -> tuple[str, ...]:
    """What stands between commas, or a sequence."""
    given = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    assert isinstance(given, list | tuple)
    return tuple(dict.fromkeys(filter(None, given)))


def _names(value: object) -> object:
    """`gpt-4o,org/model`, or a sequence."""
    for name in (names := _parts(value)):
        if not _NAME.fullmatch(name):
            raise ValueError(f"a name is of letters, digits and . _ : / -; got {name!r}")
    return names


def _origins(value: object) -> object:
    """`https://one.example,https://two.example`, or a sequence."""
    origins = _parts(value)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"an origin is https://HOST, without a path, or *; got {origin!r}")
    return origins


Bytes = Annotated[int, BeforeValidator(_bytes)]


class Settings(BaseSettings):
    """What `boomerang serve` can be told."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    family: str = Field("smollm2-135m", description="A family folder or a shipped family's name.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Weights and activations; auto: float32 on a CPU, vLLM's choice on a GPU.",
    )
    max_model_len: int = Field(
        DEFAULT_CONTEXT, ge=16, description="Longest prompt plus reply, in tokens."
    )
    max_num_seqs: int = Field(
        DEFAULT_REQUESTS, ge=1, description="Requests that run at the same time."
    )
    kv_cache_bytes: Bytes | None = Field(
        None,
        description="Memory for the KV cache of all requests, on all GPUs together: 2GiB; by "
        "default 256 MiB, or one request of max_model_len where that takes more, and on a GPU up "
        "to max_num_seqs of them in half of what the weights leave of the memory budget.",
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="GPUs (on a CPU: processes) that share every layer."
    )
    compile: bool = Field(
        False,
        description="Compile the layers instead of running them eagerly: faster tokens, a slower "
        "start; needs a C++ compiler on a CPU.",
    )
    cuda_graphs: bool | None = Field(
        None,
        description="Replay CUDA graphs in steps that only decode, whatever sizes they mix; by "
        "default where there is a GPU.",
    )
    attention_backend: Literal["FLASH_ATTN", "TRITON_ATTN"] | None = Field(
        None,
        description="FLASH_ATTN or TRITON_ATTN: attention on a GPU; by default vLLM's choice among "
        "those that a family can be served with.",
    )
    memory_budget: Bytes | None = Field(
        None,
        description="Memory for weights and KV cache: as many offered sizes, from the smallest up, "
        "as fit; by default nine tenths of the GPUs' memory, or, on a CPU, the container's limit "
        "less 2.5 GiB, where it has one.",
    )
    api_keys_file: Path | None = Field(
        None, description="API keys, one a line; without it everyone may ask."
    )
    admin_keys_file: Path | None = Field(
        None, description="Keys of /admin, one a line; without it there is no /admin."
    )
    tls_cert_file: Path | None = Field(None, description="Certificate chain, PEM: serve HTTPS.")
    tls_key_file: Path | None = Field(None, description="Private key of the certificate, PEM.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = Field(
        (), description="Origins whose pages may ask, with commas between; none by default."
    )
    max_body_bytes: Bytes = Field(4 << 20, ge=1, description="Largest body of a request: 4MiB.")
    body_timeout_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long the body of a request may take to arrive; then 408. Its head too; "
        "then the connection is closed.",
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="Longest prompt, in tokens; by default max_model_len bounds it."
    )
    max_choices: int = Field(
        128, ge=1, description="Answers that one request may ask for: n times its prompts."
    )
    max_stop_strings: int = Field(16, ge=0, description="Stop strings of a request.")
    max_requests_per_key: int | None = Field(
        None, ge=1, description="Requests of one API key at the same time; none: any number."
    )
    max_waiting: int = Field(
        128, ge=0, description="Answers that may wait beyond max_num_seqs; then 429."
    )
    send_timeout_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a client may leave its answer unread; then it is broken off.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="How long an idle connection is kept; longer than a proxy in front keeps it.",
    )
    hang_seconds: float = Field(
        300.0,
        gt=0,
        allow_inf_nan=False,
        description="How long the engine may have requests and make no step; then it counts as "
        "dead, and the server ends. While it reads weights, ten minutes more.",
    )
    page: bool = Field(True, description="Whether there is a page for people at /.")
    linger_seconds: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="On SIGTERM: how long requests are still accepted, being unready.",
    )
    drain_seconds: int = Field(
        30, ge=1, description="On SIGTERM: how long running requests may take to finish."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning",
        description="Log level of the HTTP server and of vLLM; requests are logged at any.",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="json: an object a line, ours and vLLM's. While loading, libraries print lines "
        "of their own. In both, there is a line for each request.",
    )
    otlp_traces_endpoint: str | None = Field(
        None, description="Where vLLM sends OpenTelemetry traces; none are made without it."
    )
    served_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        description="Further names of the family, with commas between, for clients that know it by "
        "another; NAME@SIZE is one of its sizes.",
    )
    vllm_options: Annotated[VllmOptions, NoDecode, BeforeValidator(read_options)] = Field(
        VllmOptions(),
        description="vLLM's own options, a JSON object: "
        f"{', '.join(sorted(VllmOptions.model_fields))} (docs/clients.md).",
    )
    default_size: str | None = Field(
        None, description="What the bare family name runs: a size, or auto; else what it states."
    )
    first_token_seconds: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="Objective of auto: seconds to the first token."
    )
    token_seconds: float = Field(
        0.2,
        gt=0,
        allow_inf_nan=False,
        description="Objective of auto: seconds for each token more.",
    )
    cache: Path | None = Field(None, description="Where unpacked teachers are kept.")

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, as told or as `guard.room.with_kv_cache` chose them."""
        assert self.kv_cache_bytes is not None, "chosen before anything needs it"
        return self.kv_cache_bytes

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together: give both or neither")
        return self


def read_settings(**options: Any) -> Settings:
    """The settings of this process: environment, then `options` that are not None.

    Raises `SettingsError`, one line, for an unknown `BOOMERANG_` variable or a bad value.
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    given = {name.upper() for name in os.environ}
    if unknown := sorted(name for name in given - known if name.startswith(PREFIX)):
        raise SettingsError(f"{unknown[0]} is not a setting; there are {', '.join(sorted(known))}")
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {reason}" if where else reason) from error
