"""vLLM's OpenAI handlers for completions and chat, behind request bodies with our fields.

Only these two endpoints are mounted.  vLLM's own app would bring thirty more, some of them
controls that anyone could call.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from boomerang_core.errors import SizeError
from boomerang_core.sizes import SizeRow
from server.access import usage
from server.engine.client import SizedEngineClient, published_sizes
from server.engine.compat import (
    ChatCompletionRequest,
    CompletionRequest,
    FlexibleArgumentParser,
    VLLMError,
    create_chat_completion,
    create_completion,
    create_error_response,
    init_app_state,
    make_arg_parser,
)
from server.engine.sizes import SIZE_KEY
from server.load.chooser import Chooser
from server.metrics import Metrics
from server.schemas import BudgetField, MaxSizeField, MinSizeField, SizeField
from server.sizing import Ask, Decision, Policy, Reason, decide, refuse_misspelt

_CHARS_PER_TOKEN = 4  # of English, about
Handler = Callable[[Any, Request], Awaitable[Response | None]]

# What vLLM's own exception handlers turn into a reply.  They are app-wide; ours must not be.
_REPORTED = (VLLMError, ValueError, TypeError, OverflowError, NotImplementedError)


class SizedCompletionRequest(CompletionRequest):
    """vLLM's body of `/v1/completions`, with the choice of a size."""

    size: SizeField = None
    memory_budget: BudgetField = None
    min_size: MinSizeField = None
    max_size: MaxSizeField = None


class SizedChatCompletionRequest(ChatCompletionRequest):
    """vLLM's body of `/v1/chat/completions`, with the choice of a size."""

    size: SizeField = None
    memory_budget: BudgetField = None
    min_size: MinSizeField = None
    max_size: MaxSizeField = None


async def mount(
    app: FastAPI, client: SizedEngineClient, policy: Policy, chooser: Chooser, metrics: Metrics
) -> None:
    """Build vLLM's serving objects in `app.state` and add the two endpoints.

    The app may already be serving: routes can be added then, middleware could not.
    """
    arguments = ["--model", client.model_config.model, "--served-model-name", policy.table.family]
    parser = make_arg_parser(FlexibleArgumentParser())
    await init_app_state(client, app.state, parser.parse_args(arguments), ("generate",))
    app.state.openai_serving_models.lora_requests.update(published_sizes(policy.table))
    sized = Sized(policy, chooser, metrics)

    async def completions(request: SizedCompletionRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, create_completion)

    async def chat(request: SizedChatCompletionRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, create_chat_completion)

    for path, endpoint in (("/v1/completions", completions), ("/v1/chat/completions", chat)):
        app.add_api_route(path, endpoint, methods=["POST"], response_model=None, tags=["openai"])
    app.openapi_schema = None  # made anew, with these two, when it is next asked for


class Sized:
    """Decides the size of a request, runs vLLM's handler, and says in headers what ran."""

    def __init__(self, policy: Policy, chooser: Chooser, metrics: Metrics) -> None:
        self._policy = policy
        self._chooser = chooser
        self._metrics = metrics

    async def run(self, request: Any, raw_request: Request, handler: Handler) -> Response:
        """The reply of `handler`; raises `SizeError` for a choice of size that makes no sense."""
        decision = self._decide(request)
        self._metrics.decided(decision)
        if (spent := usage.get()) is not None:
            spent.auto = decision.reason.is_auto
        request.model = self._policy.table.model_id(decision.row)
        try:
            response = await handler(request, raw_request)
        except _REPORTED as error:
            refusal = create_error_response(error)
            response = JSONResponse(refusal.model_dump(), refusal.error.code)
        if response is None:  # the client has gone; nobody reads this
            response = Response(status_code=499)
        response.headers.update(self._headers(decision))
        return response

    def _decide(self, request: Any) -> Decision:
        refuse_misspelt(request.model_extra or {})
        if SIZE_KEY in (request.vllm_xargs or {}):
            raise SizeError(f"{SIZE_KEY} is internal; use the field 'size'", "vllm_xargs")
        prompt_tokens = _about_tokens(request)

        def choose(allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
            offered = self._policy.table.offered
            return self._chooser.choose(offered, allowed, time.monotonic(), prompt_tokens)

        return decide(self._policy, _ask(request), choose)

    def _headers(self, decision: Decision) -> dict[str, str]:
        footprint = decision.row.footprint_bytes(self._policy.footprint_tokens)
        return {
            "x-boomerang-size": decision.row.id,
            "x-boomerang-reason": decision.reason.value,
            "x-boomerang-footprint-bytes": str(footprint),
        }


def _ask(request: Any) -> Ask:
    return Ask(
        request.model, request.size, request.memory_budget, request.min_size, request.max_size
    )


def _about_tokens(request: Any) -> float | None:
    """About how long the longest prompt of a body is, before it is tokenised; None: no telling."""
    prompt = getattr(request, "prompt", None)
    if prompt:
        many = isinstance(prompt, list) and isinstance(prompt[0], list | str)
        return max(_tokens_in(one) for one in (prompt if many else [prompt]))
    messages = [one for one in getattr(request, "messages", ()) if isinstance(one, dict)]
    return sum(_tokens_in(one.get("content")) for one in messages) if messages else None


def _tokens_in(text: object) -> float:
    """Of text by its length; of token ids, their number; of anything else, none."""
    if isinstance(text, str):
        return len(text) / _CHARS_PER_TOKEN
    return float(len(text)) if isinstance(text, list) else 0.0
