"""OpenAI's `/v1/responses`, without what would need answers to be kept.

vLLM's handler, with what its others do and this one does not: a request that makes no sense is
refused before 200 is sent, a stream that fails ends with an error, one that waits says so.
"""

import json
import logging
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from server.engine.client import SizedEngineClient
from server.engine.compat import create_responses, with_sse_keep_alive
from server.web.errors import error_body
from server.web.request_ids import REQUEST_ID

logger = logging.getLogger(__name__)


def check_early(serving: Any, client: SizedEngineClient) -> None:
    """Let vLLM's `serving` have requests checked when they come, and not once they stream."""
    generate = serving._generate_with_builtin_tools

    def checked(
        request_id: str, engine_input: Any, sampling_params: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        client.check(request_id, engine_input, sampling_params)
        outputs: AsyncGenerator[Any, None] = generate(
            request_id, engine_input, sampling_params, **options
        )
        return outputs

    serving._generate_with_builtin_tools = checked


async def respond(request: Any, raw_request: Request) -> Response:
    """vLLM's reply; its id is that of the request, as of the other endpoints."""
    request.request_id = f"resp_{raw_request.headers[REQUEST_ID]}"
    response: Response = await create_responses(request, raw_request)
    if isinstance(response, StreamingResponse):
        state = raw_request.app.state
        seconds = state.args.sse_keep_alive_interval
        events = _ended(response.body_iterator, state.engine_client)
        response.body_iterator = with_sse_keep_alive(events, float(seconds))
    return response


async def _ended(events: Any, client: SizedEngineClient) -> AsyncGenerator[str, None]:
    """The events of a stream; one that tells of an error in place of what an error cut off."""
    try:
        async for event in events:
            yield event
    except Exception as error:  # whatever it is: the client waits for an end, and 200 is sent
        yield f"data: {json.dumps(_told(error, client))}\n\n"
    finally:
        await events.aclose()


def _told(error: Exception, client: SizedEngineClient) -> dict[str, Any]:
    """The body of the error.

    `error` tells little: vLLM fails to put its own into an event of this protocol, and raises that.
    """
    if client.dead:
        return error_body(HTTPStatus.SERVICE_UNAVAILABLE, str(client.dead_error))
    logger.error("a stream of /v1/responses broke off", exc_info=error)
    return error_body(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")
