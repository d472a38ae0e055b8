"""The options of `boomerang serve`: fields of `Settings`, with their own types and words."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from server.settings import Settings
from server.vllm_options import NO_OPTIONS

COMMON = (
    "host",
    "port",
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "max_waiting",
    "kv_cache_bytes",
    "memory_budget",
    "default_size",
    "tensor_parallel_size",
    "merge",
    "compile",
    "cuda_graphs",
    "vllm_options",
    "served_names",
    "api_keys_file",
    "admin_keys_file",
    "log_level",
)
"""The settings that are options too; all are variables of the environment."""


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command of `**options`, as one of the family and the options: None where not given."""
    parameters = [_parameter("family", typer.Argument)]
    parameters += [_parameter(name, typer.Option) for name in COMMON]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _parameter(name: str, kind: Callable[..., Any]) -> inspect.Parameter:
    field = Settings.model_fields[name]
    flags = [f"--{name}/--no-{name}".replace("_", "-")] if _type(field) is bool else []
    about = kind(*flags, help=_help(field))
    annotation: Any = Annotated[_type(field) | None, about]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=annotation)


def _type(field: FieldInfo) -> type:
    """What the command line itself tells apart; all else is text that `Settings` reads."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in (bool, int) if kind in kinds), str)


def _help(field: FieldInfo) -> str:
    default = field.default
    if default in (None, (), NO_OPTIONS):
        return str(field.description)
    shown = str(default).lower() if isinstance(default, bool) else default
    return f"{field.description} Default: {shown}."
