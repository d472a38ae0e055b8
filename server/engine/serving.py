"""vLLM's OpenAI handlers for answers, behind request bodies with our fields.

Only these endpoints are mounted, and those of `tokenizing.py`.  vLLM's own app would bring
thirty more, some of them controls that anyone could call.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response

from boomerang_core.errors import SizeError
from boomerang_core.sizes import SizeRow
from server.engine.bodies import (
    SizedChatCompletionRequest,
    SizedCompletionRequest,
    SizedResponsesRequest,
)
from server.engine.client import SizedEngineClient, published_sizes
from server.engine.compat import (
    VLLMError,
    create_chat_completion,
    create_completion,
    init_app_state,
)
from server.engine.options import app_arguments, refuse_unserved
from server.engine.responses import check_early, respond
from server.engine.sizes import SIZE_KEY
from server.engine.tokenizing import mount_tokenizing
from server.engine.vllm_errors import reply_to
from server.guard.limits import Limits, count_choices
from server.guard.middleware import REQUEST_SLOTS
from server.guard.slots import RequestSlots
from server.load.chooser import Chooser
from server.memory.residency import Residency
from server.metrics import Metrics
from server.misspelt import refuse_misspelt
from server.prompts import about_tokens, token_prompts
from server.refusals import Refusal
from server.sizing import Decision, Policy, Reason, decide
from server.vllm_options import NO_OPTIONS, VllmOptions
from server.web.access import CLIENT_GONE
from server.web.leased_response import LeasedResponse
from server.web.paths import COMPLETIONS
from server.web.request_ids import named_by_body
from server.web.usage import usage
from server.withdrawn import refuse_withdrawn

_EVENTS = "text/event-stream"
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Of a stream: proxies (nginx by the second) would else collect its events."""
Handler = Callable[[Any, Request], Awaitable[Response | None]]

# What vLLM's own exception handlers turn into a reply.  They are app-wide; ours must not be.
_REPORTED = (VLLMError, ValueError, TypeError, OverflowError, NotImplementedError)


async def mount(
    app: FastAPI,
    client: SizedEngineClient,
    residency: Residency,
    chooser: Chooser,
    metrics: Metrics,
    limits: Limits,
    options: VllmOptions = NO_OPTIONS,
) -> None:
    """Build vLLM's serving objects in `app.state` and add the endpoints.

    The app may already be serving: routes can be added then, middleware could not.
    """
    table = residency.policy.table
    arguments = app_arguments(client, [table.family], options)
    await init_app_state(client, app.state, arguments, ("generate",))
    app.state.openai_serving_models.lora_requests.update(published_sizes(table))
    sized = SizedHandlers(residency, chooser, metrics, limits, client, options)

    async def completions(request: SizedCompletionRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, create_completion)

    async def chat(request: SizedChatCompletionRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, create_chat_completion)

    async def responses(request: SizedResponsesRequest, raw_request: Request) -> Response:
        return await sized.run(request, raw_request, respond)

    check_early(app.state.openai_serving_responses, client)
    endpoints: tuple[Callable[..., Awaitable[Response]], ...] = (completions, chat, responses)
    for path, endpoint in zip(COMPLETIONS, endpoints, strict=True):
        app.add_api_route(path, endpoint, methods=["POST"], response_model=None, tags=["openai"])
    mount_tokenizing(app, residency, limits, client.model_config.max_model_len)
    app.openapi_schema = None  # made anew, with these, when it is next asked for


@dataclass(frozen=True)
class SizedHandlers:
    """Decides the size of a request, runs vLLM's handler, and says in headers what ran."""

    residency: Residency
    chooser: Chooser
    metrics: Metrics
    limits: Limits
    client: SizedEngineClient
    options: VllmOptions = NO_OPTIONS

    @property
    def _policy(self) -> Policy:
        return self.residency.policy

    async def run(self, request: Any, raw_request: Request, handler: Handler) -> Response:
        """The reply of `handler`.

        Raises `SizeError` for a choice of size that makes no sense, and for what the server was not
        told to do; `RefusedError` for what is over a limit or comes when the queue is full.
        """
        decision = self._decide(request)
        refuse_unserved(request, raw_request.headers, self.options)
        with ExitStack() as lease:
            lease.enter_context(self.residency.lease(decision.row.size))
            self._take_slots(request, raw_request)
            if (spent := usage.get()) is not None:
                spent.auto = decision.reason.is_auto
            request.model = self._policy.table.model_id(decision.row)
            response = await self._answer(request, named_by_body(request, raw_request), handler)
            self._count(decision, response.status_code)
            response.headers.update(self._headers(decision))
            if response.media_type == _EVENTS:
                response.headers.update(_UNBUFFERED)
            return LeasedResponse(response, lease.pop_all())

    async def _answer(self, request: Any, raw_request: Request, handler: Handler) -> Response:
        try:
            for ids in token_prompts(getattr(request, "prompt", None)):
                # vLLM finds out too, but does not name the field.
                self.client.renderer.validate_token_ids(ids, parameter="prompt")
            response = await handler(request, raw_request)
        except _REPORTED as error:
            return reply_to(error, _prompt_field(request))
        return response or Response(status_code=CLIENT_GONE)  # nobody reads this

    def _count(self, decision: Decision, status: int) -> None:
        """What ran: a stream when it begins, all else when it is whole.  Or what vLLM refused.

        What failed is neither, and counted by its status alone.
        """
        if HTTPStatus.BAD_REQUEST <= status < CLIENT_GONE:
            self.metrics.refused(Refusal.MALFORMED)
        elif status <= CLIENT_GONE:
            self.metrics.decided(decision)

    def _take_slots(self, request: Any, raw_request: Request) -> None:
        """Refuse a request that is over a limit; take the slots of its answers until it ends."""
        choices = count_choices(getattr(request, "n", None), getattr(request, "prompt", None))
        self.limits.check(choices, request.stop)
        slots: RequestSlots = raw_request.scope[REQUEST_SLOTS]
        slots.take(choices)
        request.bound_prompt(self.limits.prompt_tokens)

    def _decide(self, request: Any) -> Decision:
        unknown = request.model_extra or {}
        refuse_misspelt(unknown)
        refuse_withdrawn(unknown, getattr(request, "n", None))
        if SIZE_KEY in (request.vllm_xargs or {}):
            raise SizeError(f"{SIZE_KEY} is internal; use the field 'size'", "vllm_xargs")
        prompt_tokens = about_tokens(request)

        def choose(allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
            offered = self._policy.table.offered
            return self.chooser.choose(offered, allowed, time.monotonic(), prompt_tokens)

        return decide(self._policy, request.ask(request.model), choose)

    def _headers(self, decision: Decision) -> dict[str, str]:
        footprint = decision.row.footprint_bytes(self._policy.footprint_tokens)
        return {
            "x-boomerang-size": decision.row.id,
            "x-boomerang-reason": decision.reason.value,
            "x-boomerang-footprint-bytes": str(footprint),
        }


def _prompt_field(request: Any) -> str:
    """What the prompt is called in a body of this kind."""
    fields = type(request).model_fields
    return next(name for name in ("input", "messages", "prompt") if name in fields)
