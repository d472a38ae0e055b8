"""Which sizes there are, and which one a request would run."""

import time
from collections.abc import Callable, Sequence

from fastapi import APIRouter

from boomerang_core.errors import SizeError, UnknownSizeError
from boomerang_core.sizes import Quality, SizeRow, shorten
from server import schemas
from server.load.chooser import Chooser
from server.misspelt import refuse_misspelt
from server.sizing import AUTO, Ask, Policy, Reason, decide


def sizes_router(
    current: Callable[[], Policy],
    chooser: Chooser,
    max_model_len: int,
    naive: Sequence[Quality | None],
) -> APIRouter:
    """`/v1/sizes`, `/v1/sizes/resolve` and `/v1/models`.

    `current` is the policy of the moment; `naive` is the quality of naive pruning, by size.
    """
    router = APIRouter(prefix="/v1", tags=["sizes"])
    created = int(time.time())

    def body(policy: Policy, row: SizeRow, tokens: int | None = None) -> schemas.SizeBody:
        counted = policy.footprint_tokens if tokens is None else tokens
        return schemas.SizeBody.of(policy.table, row, counted, naive[row.size])

    def card(policy: Policy, row: SizeRow, name: str) -> schemas.ModelCard:
        table = policy.table
        return schemas.ModelCard(
            id=name,
            created=created,
            root=table.family,
            parent=None if name == table.family else table.family,
            max_model_len=max_model_len,
            size=body(policy, row),
        )

    def preview(allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
        return chooser.preview(current().table.offered, allowed, time.monotonic())

    @router.get("/sizes")
    async def list_sizes() -> schemas.SizesBody:
        """Every size of the ladder, smallest first; `offered` ones can be asked for by name."""
        policy = current()
        table = policy.table
        return schemas.SizesBody(
            family=table.family,
            default=AUTO
            if policy.default_is_auto
            else table.model_id(table.rows[policy.default_size]),
            footprint_tokens=policy.footprint_tokens,
            data=[body(policy, row) for row in table.rows],
        )

    @router.post("/sizes/resolve")
    async def resolve(request: schemas.ResolveRequest) -> schemas.ResolveBody:
        """The size that a request with these fields would run.  Runs nothing."""
        _refuse_extras(request)
        policy = current()
        context = request.context_tokens or policy.footprint_tokens
        tokens = context * request.concurrency
        ask = Ask(
            request.model, request.size, request.memory_budget, request.min_size, request.max_size
        )
        decision = decide(policy, ask, preview, tokens)
        return schemas.ResolveBody(
            model=policy.table.model_id(decision.row),
            reason=decision.reason.value,
            kv_tokens=tokens,
            size=body(policy, decision.row, tokens),
        )

    @router.get("/models")
    async def list_models() -> schemas.ModelsBody:
        """The family, which runs the default size, by each of its names, then its offered sizes,
        smallest first.

        As vLLM lists a model and its adapters: clients that take the first get the default.
        """
        policy = current()
        table = policy.table
        default = card(policy, table.rows[policy.default_size], table.family)
        cards = [card(policy, row, table.model_id(row)) for row in table.offered]
        row = table.rows[policy.default_size]
        further = [card(policy, row, name) for name in policy.names if name != table.family]
        return schemas.ModelsBody(data=[default, *further, *cards])

    @router.get("/models/{name:path}")  # a name may have a slash
    async def one_model(name: str) -> schemas.ModelCard:
        """The card of one size; the family's own name gives the default size."""
        policy = current()
        row, table = decide(policy, Ask(model=name), preview).row, policy.table
        if row not in table.offered:
            raise UnknownSizeError(f"the model {shorten(name)} is not offered", "model")
        return card(
            policy, row, name if name in (table.family, *policy.names) else table.model_id(row)
        )

    return router


def _refuse_extras(request: schemas.ResolveRequest) -> None:
    """A dry run knows all its fields, so it refuses every other one."""
    extras = request.model_extra or {}
    refuse_misspelt(extras)
    if extras:
        first = next(iter(extras))
        known = ", ".join(type(request).model_fields)
        raise SizeError(f"unknown field {shorten(first)}; there are {known}", first[:64])
