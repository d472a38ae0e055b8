"""The id of a request: the client's own where it is one, else ours."""

import re
from typing import Any, TypeGuard

from fastapi import Request
from starlette.datastructures import MutableHeaders

REQUEST_ID = "x-request-id"
"""The header of it, of requests and of replies."""
_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids that a client may give a request: without spaces, or they could forge fields of a line."""
MADE_ID = "boomerang.made_id"
"""Key of the ASGI scope: whether the id is ours, since the client gave no header that is one."""


def is_plain_id(given: str | None) -> TypeGuard[str]:
    """Whether a client may give a request this id: short, and printable without spaces."""
    return given is not None and _PLAIN_ID.fullmatch(given) is not None


def named_by_body(request: Any, raw_request: Request) -> Request:
    """The request by the id in its body, where its head has none: vLLM, too, looks there first."""
    given = request.request_id if "request_id" in request.model_fields_set else None
    if not raw_request.scope.get(MADE_ID) or not is_plain_id(given):
        return raw_request
    MutableHeaders(scope=raw_request.scope)[REQUEST_ID] = given
    return Request(raw_request.scope, raw_request.receive)  # the other keeps the headers it had
