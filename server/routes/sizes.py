"""Which sizes there are, and which one a request would run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    routes = SizeRoutes(current, chooser, max_model_len, naive, created=int(time.time()))
    router = APIRouter(prefix="/v1", tags=["sizes"])
    router.get("/sizes")(routes.list_sizes)
    router.post("/sizes/resolve")(routes.resolve)
    router.get("/models")(routes.list_models)
    router.get("/models/{name:path}")(routes.one_model)  # a name may have a slash
    return router


@dataclass(frozen=True)
class SizeRoutes:
    """The endpoints; see `sizes_router`.  `created` is the server's start, in Unix seconds."""

    current: Callable[[], Policy]
    chooser: Chooser
    max_model_len: int
    naive: Sequence[Quality | None]
    created: int

    async def list_sizes(self) -> schemas.SizesBody:
        """Every size of the ladder, smallest first; `offered` ones can be asked for by name."""
        policy = self.current()
        table = policy.table
        default = table.model_id(table.rows[policy.default_size])
        return schemas.SizesBody(
            family=table.family,
            default=AUTO if policy.default_is_auto else default,
            footprint_tokens=policy.footprint_tokens,
            data=[self._body(policy, row) for row in table.rows],
        )

    async def resolve(self, request: schemas.ResolveRequest) -> schemas.ResolveBody:
        """The size that a request with these fields would run.  Runs nothing."""
        _refuse_extras(request)
        policy = self.current()
        context = request.context_tokens or policy.footprint_tokens
        tokens = context * request.concurrency
        decision = decide(policy, request.ask(request.model), self._preview, tokens)
        return schemas.ResolveBody(
            model=policy.table.model_id(decision.row),
            reason=decision.reason.value,
            kv_tokens=tokens,
            size=self._body(policy, decision.row, tokens),
        )

    async def list_models(self) -> schemas.ModelsBody:
        """The family, which runs the default size, by each of its names, then its offered sizes,
        smallest first.

        As vLLM lists a model and its adapters: clients that take the first get the default.
        """
        policy = self.current()
        table = policy.table
        default = table.rows[policy.default_size]
        names = [table.family, *(name for name in policy.names if name != table.family)]
        families = [self._card(policy, default, name) for name in names]
        sizes = [self._card(policy, row, table.model_id(row)) for row in table.offered]
        return schemas.ModelsBody(data=[*families, *sizes])

    async def one_model(self, name: str) -> schemas.ModelCard:
        """The card of one size; the family's own name gives the default size."""
        policy = self.current()
        table = policy.table
        if name in (table.family, *policy.names):
            return self._card(policy, table.rows[policy.default_size], name)
        row = decide(policy, Ask(model=name), self._preview).row
        if row not in table.offered:
            raise UnknownSizeError(f"the model {shorten(name)} is not offered", "model")
        return self._card(policy, row, table.model_id(row))

    def _preview(self, allowed: tuple[SizeRow, ...]) -> tuple[SizeRow, Reason]:
        return self.chooser.preview(self.current().table.offered, allowed, time.monotonic())

    def _body(self, policy: Policy, row: SizeRow, tokens: int | None = None) -> schemas.SizeBody:
        counted = policy.footprint_tokens if tokens is None else tokens
        return schemas.SizeBody.of(policy.table, row, counted, self.naive[row.size])

    def _card(self, policy: Policy, row: SizeRow, name: str) -> schemas.ModelCard:
        family = policy.table.family
        return schemas.ModelCard(
            id=name,
            created=self.created,
            root=family,
            parent=None if name == family else family,
            max_model_len=self.max_model_len,
            size=self._body(policy, row),
        )


def _refuse_extras(request: schemas.ResolveRequest) -> None:
    """A dry run knows all its fields, so it refuses every other one."""
    extras = request.model_extra or {}
    refuse_misspelt(extras)
    if extras:
        first = next(iter(extras))
        known = ", ".join(type(request).model_fields)
        raise SizeError(f"unknown field {shorten(first)}; there are {known}", first[:64])
