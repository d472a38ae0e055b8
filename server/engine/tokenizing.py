"""vLLM's `/tokenize` and `/detokenize`: no size runs, so any model name of the family will do."""

from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Request, Response
from pydantic import Discriminator, Tag

from server.engine.bodies import GuardedBody
from server.engine.compat import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
    VLLMError,
    detokenize,
    tokenize,
)
from server.engine.vllm_errors import reply_to
from server.guard.limits import Limits, prompt_too_long
from server.memory.residency import Residency
from server.sizing import require_model
from server.web.paths import TOKENIZING


class TokenizePrompt(GuardedBody, TokenizeCompletionRequest):
    """vLLM's body for a prompt."""


class TokenizeChat(GuardedBody, TokenizeChatRequest):
    """vLLM's body for a chat: its template comes first."""


class Detokenize(GuardedBody, DetokenizeRequest):
    """vLLM's body for tokens."""


def _which(body: Any) -> Literal["prompt", "messages"] | None:
    """The field that tells the two bodies of `/tokenize` apart."""
    if isinstance(body, dict):
        return "messages" if "messages" in body else "prompt" if "prompt" in body else None
    return "messages" if isinstance(body, TokenizeChat) else "prompt"


TokenizeBody = Annotated[
    Annotated[TokenizePrompt, Tag("prompt")] | Annotated[TokenizeChat, Tag("messages")],
    Discriminator(
        _which,
        custom_error_type="prompt_or_messages",
        custom_error_message="give a prompt or messages",
    ),
    Body(),
]


def mount_tokenizing(
    app: FastAPI, residency: Residency, limits: Limits, max_model_len: int
) -> None:
    """Add the two endpoints, once vLLM's serving objects are in `app.state`.

    A text of more tokens than a prompt may have is refused, as it would be of a completion.
    """
    most = min(limits.prompt_tokens or max_model_len, max_model_len)

    async def answer(request: Any, raw_request: Request, handler: Any, field: str) -> Response:
        require_model(residency.policy, request.model)
        request.model = residency.policy.table.family
        request.bound_prompt(most)
        try:
            response: Response | None = await handler(request, raw_request)
        except (VLLMError, ValueError, TypeError, OverflowError) as error:
            return reply_to(error, field)
        return response or Response()  # nobody reads this: the client has gone

    async def tokenize_text(request: TokenizeBody, raw_request: Request) -> Response:
        field = "messages" if isinstance(request, TokenizeChat) else "prompt"
        return await answer(request, raw_request, tokenize, field)

    async def detokenize_tokens(request: Detokenize, raw_request: Request) -> Response:
        if len(request.tokens) > most:
            raise prompt_too_long(
                f"This model's maximum context length is {most} tokens. However, your request has "
                f"{len(request.tokens)} tokens.",
                "tokens",
            )
        return await answer(request, raw_request, detokenize, "tokens")

    for path, endpoint in zip(TOKENIZING, (tokenize_text, detokenize_tokens), strict=True):
        app.add_api_route(path, endpoint, methods=["POST"], response_model=None, tags=["vllm"])
