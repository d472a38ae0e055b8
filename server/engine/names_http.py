"""The vLLM names of the HTTP layer; same form as the table in `compat.py`."""

import importlib
from collections.abc import Mapping
from typing import Any

HTTP_NAMES: Mapping[str, str] = {
    "AsyncEngineArgs": "vllm.engine.arg_utils:AsyncEngineArgs",
    "AsyncLLM": "vllm.v1.engine.async_llm:AsyncLLM",
    "ChatCompletionRequest": (
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest"
    ),
    "CompletionRequest": "vllm.entrypoints.openai.completion.protocol:CompletionRequest",
    "EngineClient": "vllm.engine.protocol:EngineClient",
    "FlexibleArgumentParser": "vllm.utils.argparse_utils:FlexibleArgumentParser",
    "LoRARequest": "vllm.lora.request:LoRARequest",
    "VLLMError": "vllm.exceptions:VLLMError",
    "create_chat_completion": (
        "vllm.entrypoints.openai.chat_completion.api_router:create_chat_completion"
    ),
    "create_completion": "vllm.entrypoints.openai.completion.api_router:create_completion",
    "create_error_response": "vllm.entrypoints.serve:create_error_response",
    "init_app_state": "vllm.entrypoints.launchers.api_server.app_state:init_app_state",
    "make_arg_parser": "vllm.entrypoints.launchers.cli_args:make_arg_parser",
}
"""Name in this module → ``module:attribute`` in vLLM."""


def __getattr__(name: str) -> Any:
    if name not in HTTP_NAMES:
        raise AttributeError(f"{name!r} is not in the table of vLLM names")
    module, _, attribute = HTTP_NAMES[name].partition(":")
    return globals().setdefault(name, getattr(importlib.import_module(module), attribute))
