"""Every error reply has one form: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from boomerang_core.errors import SizeError, UnknownSizeError
from server.refusals import Refusal, refusal_of
from server.web.paths import COMPLETIONS
from server.web.request_ids import REQUEST_ID

_TYPES = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.UNAUTHORIZED: "AuthenticationError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowedError",
    HTTPStatus.REQUEST_TIMEOUT: "RequestTimeoutError",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestTooLargeError",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "UnsupportedMediaTypeError",
    HTTPStatus.TOO_MANY_REQUESTS: "RateLimitError",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalServerError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
}

TRY_AGAIN = {"Retry-After": "5"}
"""Of a 503: the next server is there soon, or this one ready."""
_NOT_JSON = "the content type must be application/json: -H 'content-type: application/json' of curl"


class RefusedError(HTTPException):
    """A request that has no key, asks for too much, or comes when there is no room.

    An `HTTPException`, since FastAPI lets only these through while it reads a body.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        reason: Refusal,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.reason = reason
        self.param = param


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error reply."""
    kind = _TYPES.get(HTTPStatus(status), HTTPStatus(status).phrase)
    return {"error": {"message": message, "type": kind, "param": param, "code": int(status)}}


def error_response(
    status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error reply."""
    return JSONResponse(error_body(status, message, param), status, headers)


def refusal_response(error: RefusedError) -> JSONResponse:
    """The reply to a refused request."""
    return error_response(error.status_code, error.detail, error.param, dict(error.headers or {}))


def status_of(error: SizeError) -> HTTPStatus:
    """404 for a model that does not exist; 400 for every other request that makes no sense."""
    if isinstance(error, UnknownSizeError) and error.param == "model":
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.BAD_REQUEST


def install_handlers(app: FastAPI) -> None:
    """Give the app our handlers; `app.state.metrics` counts the completions that are refused."""
    app.add_exception_handler(SizeError, _on_size)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(RefusedError, _on_refused)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)


def _count_refusal(request: Request, reason: Refusal) -> None:
    if request.scope["path"] in COMPLETIONS:
        request.app.state.metrics.refused(reason)


async def _on_size(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SizeError)
    _count_refusal(request, refusal_of(error))
    return error_response(status_of(error), str(error), error.param)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    _count_refusal(request, Refusal.MALFORMED)
    if isinstance(error.body, bytes):  # FastAPI reads as JSON only what says that it is
        return error_response(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _NOT_JSON)
    message, param = _first_problem(error.errors())
    return error_response(HTTPStatus.BAD_REQUEST, message, param)


async def _on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    request.app.state.metrics.refused(error.reason)  # limits hold on every path
    return refusal_response(error)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return error_response(error.status_code, str(error.detail), None, headers)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    # Starlette logs the traceback after this reply; the client is told no internals.  The reply
    # comes from outside of `Gate`, which has put its id into the request.
    headers = {name: value for name, value in request.headers.items() if name == REQUEST_ID}
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", headers=headers)


def _first_problem(problems: Sequence[Any]) -> tuple[str, str | None]:
    """(message, field) of the first thing that is wrong with a body."""
    problem = problems[0] if problems else {}
    if problem.get("type") == "json_invalid":
        return "the body is not valid JSON", None
    cause = problem.get("ctx", {}).get("error")
    if field := getattr(cause, "parameter", None):  # vLLM's validators name the field
        return str(cause), str(field)
    # Past the field's name a location lists the branches of unions, which help nobody.
    fields = [part for part in problem.get("loc", ()) if isinstance(part, str) and part != "body"]
    param = fields[0] if fields and fields[0].isidentifier() else None
    message = problem.get("msg", "the request is malformed")
    return (f"{param}: {message}" if param else str(message)), param
