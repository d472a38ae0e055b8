"""What vLLM's handlers raise, as our replies."""

from http import HTTPStatus

from fastapi.responses import JSONResponse

from server.engine.compat import create_error_response
from server.guard.limits import prompt_too_long
from server.web.errors import TRY_AGAIN

_TOO_LONG = frozenset({"input_text", "input_tokens"})
"""What vLLM calls the field at fault where a prompt is too long."""


def reply_to(error: Exception, prompt_field: str) -> JSONResponse:
    """The reply to what vLLM found wrong.

    Raises `RefusedError`, of the field `prompt_field`, where the prompt is too long.
    """
    if getattr(error, "parameter", None) in _TOO_LONG:
        raise prompt_too_long(str(error.args[0]), prompt_field) from error
    found = create_error_response(error)
    again = TRY_AGAIN if found.error.code == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(found.model_dump(), found.error.code, again)
