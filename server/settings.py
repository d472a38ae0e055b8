"""Settings of the server: typed, read once, unknown ones refused.

Each field is an environment variable too: `port` is `BOOMERANG_PORT`.  Command-line options win.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from boomerang_core.errors import SettingsError, SizeError
from boomerang_core.sizes import parse_bytes

PREFIX = "BOOMERANG_"


def _bytes(value: object) -> int:
    """`256MiB` or a number of bytes; pydantic reports what is raised here."""
    try:
        return parse_bytes(value, "kv_cache_bytes")
    except SizeError as error:
        raise ValueError(str(error)) from error


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
    max_model_len: int = Field(2048, ge=16, description="Longest prompt plus reply, in tokens.")
    max_num_seqs: int = Field(32, ge=1, description="Requests that run at the same time.")
    kv_cache_bytes: Annotated[int, BeforeValidator(_bytes)] = Field(
        256 << 20, description="Memory for the KV cache of all requests: 256MiB or bytes."
    )
    linger_seconds: float = Field(
        2.0, ge=0, description="On SIGTERM: how long requests are still accepted, being unready."
    )
    drain_seconds: int = Field(
        30, ge=1, description="On SIGTERM: how long running requests may take to finish."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Log level of the HTTP server and of vLLM."
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="json: an object a line, ours and vLLM's, and one for each request. "
        "While loading, libraries print lines of their own.",
    )
    otlp_traces_endpoint: str | None = Field(
        None, description="Where vLLM sends OpenTelemetry traces; none are made without it."
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
        raise SettingsError(f"{where}: {first['msg']}") from error
