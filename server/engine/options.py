"""vLLM's own options, as its app takes them; and what a server must have for a request."""

from collections.abc import Mapping
from typing import Any

from boomerang_core.errors import SettingsError, SizeError
from server.engine.compat import (
    FlexibleArgumentParser,
    ReasoningParserManager,
    ToolParserManager,
    make_arg_parser,
)
from server.vllm_options import VllmOptions

PRIORITY_HEADER = "x-vllm-priority"
"""It goes before the field `priority`, in vLLM too."""

_TRANSFERS = ("kv_transfer_params", "ec_transfer_params")
"""Fields, also of `vllm_xargs`, by which vLLM's servers hand requests over to one another."""

_MOST = 2**63 - 1


def check_parsers(options: VllmOptions) -> None:
    """Raise `SettingsError` for a parser that vLLM does not have."""
    for field, registry in (
        ("tool_call_parser", ToolParserManager),
        ("reasoning_parser", ReasoningParserManager),
    ):
        name, known = getattr(options, field), registry.list_registered()
        if name is not None and name not in known:
            raise SettingsError(
                f"vllm_options.{field}: there is no {name}; there are {', '.join(sorted(known))}"
            )


def app_arguments(client: Any, names: list[str], options: VllmOptions) -> Any:
    """The arguments that vLLM's app state is made from: its own defaults, and what was told.

    The engine holds the reasoning parser in its configuration, from where vLLM's app reads it.
    """
    parser = make_arg_parser(FlexibleArgumentParser())
    arguments = parser.parse_args(
        ["--model", client.model_config.model, "--served-model-name", *names]
    )
    for name, value in options.for_app().items():
        assert hasattr(arguments, name), f"vLLM's app has no {name}"
        setattr(arguments, name, value)
    arguments.structured_outputs_config = client.vllm_config.structured_outputs_config
    return arguments


def refuse_unserved(request: Any, headers: Mapping[str, str], options: VllmOptions) -> None:
    """Raise `SizeError` where a request asks for what this server was not told to do.

    vLLM refuses tools and templates in words that name its own command line, and takes a priority
    that does nothing.  It believes what a transfer says of cached tokens, from which `auto` would
    learn, and trips over one that is no object.
    """
    arguments = getattr(request, "chat_template_kwargs", None) or {}
    if getattr(request, "chat_template", None) or arguments.get("chat_template"):
        raise SizeError(
            "this server takes no chat template from a request; vllm_options="
            '\'{"chat_template": "FILE"}\' sets one for all',
            "chat_template",
        )
    wanted = getattr(request, "tool_choice", None)
    if wanted not in (None, "none") and not options.calls_tools:
        raise SizeError(
            "this server calls no tools: it was started without vllm_options="
            '\'{"tool_call_parser": "NAME"}\'; leave tools out, or send tool_choice="none"',
            "tool_choice",
        )
    if _priority(request, headers) and not options.has_priorities:
        raise SizeError(
            "this server serves in the order of arrival: it was started without vllm_options="
            '\'{"scheduling_policy": "priority"}\'; leave priority out',
            "priority",
        )
    for name in _TRANSFERS:
        if getattr(request, name, None) is not None or name in (request.vllm_xargs or {}):
            raise SizeError(f"this server takes no part in a transfer; leave {name} out", name)


def _priority(request: Any, headers: Mapping[str, str]) -> int:
    """The priority of a request; `SizeError` where the header's is no whole number of 64 bits."""
    told = headers.get(PRIORITY_HEADER)
    if told is None:
        return int(request.priority)
    digits = told.strip().removeprefix("-")
    if not digits.isdecimal() or len(digits) > len(str(_MOST)) or int(digits) > _MOST:
        raise SizeError("X-Vllm-Priority is a whole number: -1, 0, 1", "priority")
    return int(told)
