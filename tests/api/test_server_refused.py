"""What the real server refuses, and in which words."""

from typing import Any

import httpx
import pytest

from boomerang_core.family import Family
from server.sizing import Policy
from server.withdrawn import WITHDRAWN
from tests.api.asking import ENDPOINTS, GREEDY, assert_error
from tests.api.malformed import LEGITIMATE, MALFORMED, MISSPELT, Malformed, named

pytestmark = pytest.mark.engine

COMPLETIONS = [path for path in ENDPOINTS if path.endswith("completions")]
"""`/v1/responses` has other fields: `test_server_responses.py`."""


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: str(case.fields)[:40])
def test_malformed_requests(http: httpx.Client, family: Family, case: Malformed) -> None:
    fields = {key: named(value, family.name) for key, value in case.fields.items()}
    for path, body in (*ENDPOINTS.items(), ("/v1/sizes/resolve", {})):
        assert_error(http.post(path, json={**body, **fields}), case.status, case.param)


@pytest.mark.parametrize("path", [*ENDPOINTS, "/v1/sizes/resolve"])
def test_misspelt_fields(http: httpx.Client, path: str) -> None:
    for name, meant in MISSPELT.items():
        reply = http.post(path, json={**ENDPOINTS.get(path, {}), name: "1GiB"})
        assert f"did you mean '{meant}'" in assert_error(reply, 400, name)


@pytest.mark.parametrize("path", COMPLETIONS)
def test_other_unknown_fields_are_ignored(http: httpx.Client, path: str) -> None:
    extras = {name: "1" for name in LEGITIMATE if name not in ("stop", "seed", "n", "store")}
    reply = http.post(path, json={**ENDPOINTS[path], **extras})
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("guided_json", {"type": "object"}, '"structured_outputs": {"json": …}'),
        ("guided_choice", ["yes", "no"], '"structured_outputs": {"choice": …}'),
        ("guided_decoding_backend", "xgrammar", '"structured_outputs"'),
        ("best_of", 3, "n answers"),
    ],
)
def test_fields_that_vllm_no_longer_has(
    http: httpx.Client, path: str, field: str, value: Any, instead: str
) -> None:
    reply = http.post(path, json={**ENDPOINTS[path], field: value})
    assert instead in assert_error(reply, 400, field)
    harmless = 1 if field == "best_of" else None
    assert http.post(path, json={**ENDPOINTS[path], field: harmless}).status_code == 200


def test_all_that_vllm_ignores_with_a_warning_is_among_them() -> None:
    from vllm.entrypoints.serve.engine.protocol import _REMOVED_GUIDED_FIELDS

    assert _REMOVED_GUIDED_FIELDS <= WITHDRAWN


@pytest.mark.parametrize("path", COMPLETIONS)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"model": 7}, "model"),
        ({"vllm_xargs": {"boomerang_size": 99}}, "vllm_xargs"),
        ({"vllm_xargs": {"kv_transfer_params": "x"}}, "kv_transfer_params"),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
        ({"use_beam_search": True, "n": 2}, "use_beam_search"),
    ],
)
def test_other_bad_fields(
    http: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    reply = http.post(path, json={**ENDPOINTS[path], **fields})
    assert reply.status_code == 400, reply.text
    message = reply.json()["error"]["message"]
    assert param in (reply.json()["error"]["param"] or message)
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", [[5, 10**9], [[5, 6], [10**9]]])
def test_tokens_that_there_are_not(http: httpx.Client, prompt: object, stream: bool) -> None:
    body = {"prompt": prompt, "stream": stream, **GREEDY}
    message = assert_error(http.post("/v1/completions", json=body), 400, "prompt")
    assert "is out of vocabulary" in message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"1" * 5000])
@pytest.mark.parametrize("path", [*ENDPOINTS, "/v1/sizes/resolve"])
def test_bodies_that_are_no_request(http: httpx.Client, path: str, body: bytes) -> None:
    reply = http.post(path, content=body, headers={"content-type": "application/json"})
    assert_error(reply, 400, None)


def test_paths_that_are_not_there(http: httpx.Client) -> None:
    assert_error(http.get("/nowhere"), 404, None)
    assert_error(http.get("/v1/completions"), 405, None)
    for page in ("/docs", "/redoc", "/docs/oauth2-redirect"):  # FastAPI's own load from elsewhere
        assert_error(http.get(page), 404, None)
    for path in ("/invocations", "/v1/load_lora_adapter", "/v1/responses/x/cancel"):
        assert http.post(path, json={}).status_code == 404, path


def test_a_budget_that_fits_nothing_names_one_that_does(http: httpx.Client, family: Family) -> None:
    reply = http.post("/v1/completions", json={"prompt": "x", "memory_budget": "1KiB"})
    message = assert_error(reply, 400, "memory_budget")
    smallest = family.table.offered[0]
    assert family.table.model_id(smallest) in message
    assert f"{smallest.footprint_bytes(Policy.of(family).footprint_tokens):,} bytes" in message


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_path_with_a_slash_too_many_is_not_redirected(http: httpx.Client, path: str) -> None:
    """A redirect names the scheme that the server sees, which is http:// behind a TLS proxy."""
    reply = http.post(f"{path}/", json=ENDPOINTS[path])
    assert_error(reply, 404, None)
