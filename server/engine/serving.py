"""vLLM's OpenAI handlers for completions and chat, behind request bodies with our fields.

Only these two endpoints are mounted.  vLLM's own app would bring thirty more, some of them
controls that anyone could call.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from boomerang_core.errors import SizeError
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
from server.metrics import Metrics
from server.residency import Residency
from server.schemas import BudgetField, SizeField
from server.sizing import Ask, Decision, Policy, decide, refuse_misspelt

Handler = Callable[[Any, Request], Awaitable[Response | None]]

# What vLLM's own exception handlers turn into a reply.  They are app-wide; ours must not be.
_REPORTED = (VLLMError, ValueError, TypeError, OverflowError, NotImplementedError)


class SizedCompletionRequest(CompletionRequest):
    """vLLM's body of `/v1/completions`, with the choice of a size."""

    size: SizeField = None
    memory_budget: BudgetField = None


class SizedChatCompletionRequest(ChatCompletionRequest):
    """vLLM's body of `/v1/chat/completions`, with the choice of a size."""

    size: SizeField = None
    memory_budget: BudgetField = None


async def mount(
    app: FastAPI, client: SizedEngineClient, residency: Residency, metrics: Metrics
) -> None:
    """Build vLLM's serving objects in `app.state` and add the two endpoints.

    The app may already be serving: routes can be added then, middleware could not.
    """
    table = residency.policy.table
    arguments = ["--model", client.model_config.model, "--served-model-name", table.family]
    parser = make_arg_parser(FlexibleArgumentParser())
    await init_app_state(client, app.state, parser.parse_args(arguments), ("generate",))
    app.state.openai_serving_models.lora_requests.update(published_sizes(table))
    sized = Sized(residency, metrics)

    async def completions(request: SizedCompletionRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, create_completion)

    async def chat(request: SizedChatCompletionRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, create_chat_completion)

    for path, endpoint in (("/v1/completions", completions), ("/v1/chat/completions", chat)):
        app.add_api_route(path, endpoint, methods=["POST"], response_model=None, tags=["openai"])
    app.openapi_schema = None  # made anew, with these two, when it is next asked for


class Leased(Response):
    """A response, a stream it may be, that ends the lease of its size when it has been sent."""

    def __init__(self, inner: Response, lease: ExitStack) -> None:
        self._inner, self._lease = inner, lease
        self.status_code, self.background = inner.status_code, inner.background
        self.raw_headers = inner.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, whole or not."""
        with self._lease:
            await self._inner(scope, receive, send)


class Sized:
    """Decides the size of a request, runs vLLM's handler, and says in headers what ran."""

    def __init__(self, residency: Residency, metrics: Metrics) -> None:
        self._residency = residency
        self._metrics = metrics

    @property
    def _policy(self) -> Policy:
        return self._residency.policy

    async def run(self, request: Any, raw_request: Request, handler: Handler) -> Response:
        """The reply of `handler`; raises `SizeError` for a choice of size that makes no sense."""
        decision = self._decide(request)
        with ExitStack() as lease:
            lease.enter_context(self._residency.lease(decision.row.size))
            self._metrics.decided(decision)
            request.model = self._policy.table.model_id(decision.row)
            response = await self._answer(request, raw_request, handler)
            response.headers.update(self._headers(decision))
            return Leased(response, lease.pop_all())

    async def _answer(self, request: Any, raw_request: Request, handler: Handler) -> Response:
        try:
            response = await handler(request, raw_request)
        except _REPORTED as error:
            refusal = create_error_response(error)
            return JSONResponse(refusal.model_dump(), refusal.error.code)
        return response or Response(status_code=499)  # the client has gone; nobody reads this

    def _decide(self, request: Any) -> Decision:
        refuse_misspelt(request.model_extra or {})
        if SIZE_KEY in (request.vllm_xargs or {}):
            raise SizeError(f"{SIZE_KEY} is internal; use the field 'size'", "vllm_xargs")
        return decide(self._policy, Ask(request.model, request.size, request.memory_budget))

    def _headers(self, decision: Decision) -> dict[str, str]:
        footprint = decision.row.footprint_bytes(self._policy.footprint_tokens)
        return {
            "x-boomerang-size": decision.row.id,
            "x-boomerang-reason": decision.reason.value,
            "x-boomerang-footprint-bytes": str(footprint),
        }
