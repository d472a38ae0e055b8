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
from boomerang_core.memory_plan import DEFAULT_CONTEXT, DEFAULT_REQUESTS, LEAST_CONTEXT
from boomerang_core.sizes import parse_bytes
from server.vllm_options import NO_OPTIONS, VllmOptions, read_options

PREFIX = "BOOMERANG_"
_LINK = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_LINKED_PORT = re.compile(r"(tcp|udp|sctp)://.+")
"""What Kubernetes tells pods of a Service called `boomerang` or `boomerang-…`; no settings."""

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
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 picks a free one.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Weights and activations; auto: float32 on a CPU, vLLM's choice on a GPU.",
    )
    max_model_len: int = Field(
        DEFAULT_CONTEXT, ge=LEAST_CONTEXT, description="Longest prompt plus reply, in tokens."
    )
    max_num_seqs: int = Field(
        DEFAULT_REQUESTS, ge=1, description="Most requests that run at the same time."
    )
    kv_cache_bytes: Bytes | None = Field(
        None,
        description="Memory for the KV cache of all requests, over all GPUs together, as 2GiB. By "
        "default 256 MiB, or one request of max_model_len if that needs more; on a GPU up to "
        "max_num_seqs such requests, in at most half of what the weights leave of memory_budget.",
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="GPUs (on a CPU: processes) that every layer is split over."
    )
    merge: bool = Field(
        False,
        description="Merge a low-rank student's deltas into weights of its own while they are "
        "read: small sizes answer faster, batches of mixed sizes decode a little slower, and "
        "memory is that of a full student, which itself is refused.",
    )
    compile: bool = Field(
        False,
        description="Compile the layers instead of running them eagerly: faster tokens on a "
        "CPU, slower start; needs a C++ compiler on a CPU.",
    )
    cuda_graphs: bool | None = Field(
        None,
        description="Replay CUDA graphs in steps of up to 512 tokens, whatever sizes they mix; on "
        "by default if there is a GPU.",
    )
    attention_backend: Literal["FLASH_ATTN", "TRITON_ATTN"] | None = Field(
        None,
        description="Attention on a GPU: FLASH_ATTN or TRITON_ATTN; by default vLLM's choice among "
        "those that work with a family.",
    )
    memory_budget: Bytes | None = Field(
        None,
        description="Memory for weights and KV cache: the server holds as many offered sizes as "
        "fit, from the smallest up. By default nine tenths of the GPUs' memory, leaving at least "
        "2.5 GiB of each; on a CPU the container's limit, if it has one, minus 2.5 GiB.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, one per line, maybe with a name: KEY # NAME. Changes are "
        "followed (docs/operations.md). If unset, no key is needed.",
    )
    admin_keys_file: Path | None = Field(
        None,
        description="File of keys for /admin, in the same form; if unset, /admin is off.",
    )
    tls_cert_file: Path | None = Field(None, description="Certificate chain, PEM; enables HTTPS.")
    tls_key_file: Path | None = Field(None, description="Private key of the certificate, PEM.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = Field(
        (), description="Origins whose pages may send requests, separated by commas."
    )
    max_body_bytes: Bytes = Field(
        4 << 20,
        ge=1,
        description="Largest body of a request, such as 4MiB, else 413; 16 times that for all "
        "that are arriving, else 429.",
    )
    body_timeout_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long the body of a request may take to arrive, else 408. The same limit "
        "applies to its head, after which the connection is closed.",
    )
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest prompt, in tokens; by default only max_model_len limits it.",
    )
    max_choices: int = Field(
        128, ge=1, description="Most answers to one request: n times its prompts."
    )
    max_stop_strings: int = Field(16, ge=0, description="Most stop strings in a request.")
    max_requests_per_key: int | None = Field(
        None,
        ge=1,
        description="Most requests of one API key at the same time; by default no limit.",
    )
    max_waiting: int = Field(
        128, ge=0, description="Answers that may wait beyond max_num_seqs, else 429."
    )
    send_timeout_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a client may leave its answer unread before it is cut off.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="How long an idle connection is kept open; set it longer than in a proxy in "
        "front.",
    )
    hang_seconds: float = Field(
        300.0,
        gt=0,
        allow_inf_nan=False,
        description="How long the engine may have requests and make no step before it counts as "
        "dead and the server ends; ten minutes more while it reads weights.",
    )
    page: bool = Field(True, description="Serve the web page at /.")
    linger_seconds: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="On SIGTERM: how long the server, no longer ready, still accepts requests.",
    )
    drain_seconds: int = Field(
        30, ge=1, description="On SIGTERM: how long running requests may take to finish."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning",
        description="Log level of the HTTP server and vLLM; requests are logged at every level.",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="text or json (one object per line, for our lines and vLLM's). While loading, "
        "libraries also print their own lines. Both log one line per request.",
    )
    otlp_traces_endpoint: str | None = Field(
        None, description="Where to send OpenTelemetry traces; if unset, there are none."
    )
    served_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        description="Further names of the family, with commas between, for clients that know it by "
        "another; NAME@SIZE is one of its sizes.",
    )
    vllm_options: Annotated[VllmOptions, NoDecode, BeforeValidator(read_options)] = Field(
        NO_OPTIONS,
        description="vLLM's own options, a JSON object: "
        f"{', '.join(sorted(VllmOptions.model_fields))} (docs/clients.md).",
    )
    default_size: str | None = Field(
        None,
        description="Size of the bare family name, or auto; by default what the family states.",
    )
    first_token_seconds: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="Objective of auto: seconds to the first token."
    )
    token_seconds: float = Field(
        0.2,
        gt=0,
        allow_inf_nan=False,
        description="Objective of auto: seconds for each further token.",
    )
    cache: Path | None = Field(None, description="Where unpacked teachers are kept.")

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, as told or as `memory.fit.with_kv_cache` chose them."""
        assert self.kv_cache_bytes is not None, "chosen before anything needs it"
        return self.kv_cache_bytes

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together: give both or neither")
        return self


def read_settings(**options: Any) -> Settings:
    """The settings of this process: environment, then `options` that are not None.

    Raises `SettingsError`, one line, for an unknown `BOOMERANG_` variable or a bad value.  What
    Kubernetes sets for a Service of that name is passed over, `BOOMERANG_PORT=tcp://…` too.
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    linked = {name.upper() for name, value in os.environ.items() if _is_link(name.upper(), value)}
    if f"{PREFIX}PORT" in linked and options.get("port") is None:
        options["port"] = Settings.model_fields["port"].default
    given = {name.upper() for name in os.environ} - linked
    if unknown := sorted(name for name in given - known if name.startswith(PREFIX)):
        raise SettingsError(f"{unknown[0]} is not a setting; there are {', '.join(sorted(known))}")
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {reason}" if where else reason) from error


def _is_link(name: str, value: str) -> bool:
    is_port = name.startswith(PREFIX) and name.endswith("PORT")
    return bool(_LINK.fullmatch(name) or (is_port and _LINKED_PORT.fullmatch(value)))
