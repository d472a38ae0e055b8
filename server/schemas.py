"""Bodies of our own endpoints."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from boomerang_core.sizes import GRAMMAR, Quality, SizeRow, SizeTable
from server.memory.residency import Residency
from server.sizing import Ask

SIZE_HELP = (
    f"The size to run, one of {GRAMMAR}, or 'auto': the largest that keeps the server's latency "
    "objective under the present load. Parameters and shares are upper bounds; a number is a share."
)
BOUND_HELP = (
    "The {} size that 'auto' may choose, in the form of size; given alone it asks for 'auto'."
)
BUDGET_HELP = "Memory the size may take standing alone, KV cache included: '300MiB' or bytes."

# Any JSON value gets in, so that `sizing.py` refuses bad ones, with what would fit.
_SIZE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]
}
_BYTES: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
Count = Annotated[StrictInt, Field(ge=1, le=10**9)]


class QualityBody(BaseModel):
    """Measured on held-out text: KL to the teacher in nats a token; `n` tokens were scored."""

    kl: float
    top1: float
    perplexity: float
    n: int

    @classmethod
    def of(cls, quality: Quality | None) -> "QualityBody | None":
        """The quality as it is shown; None where nothing was measured."""
        return None if quality is None else cls(**asdict(quality))


class SizeBody(BaseModel):
    """A size: `id` is the model name to ask for."""

    id: str
    size: str
    layers: int
    params: int
    weight_bytes: int
    kv_bytes_per_token: int
    footprint_bytes: int = Field(description="Standing alone, with `footprint_tokens` of KV cache.")
    offered: bool
    unavailable: str | None = Field(description="Why it cannot run at present; null where it can.")
    quality: QualityBody | None
    naive: QualityBody | None = Field(
        None, description="Naive pruning: the same layers, not distilled; null where not measured."
    )

    @classmethod
    def of(
        cls, table: SizeTable, row: SizeRow, tokens: int, naive: Quality | None = None
    ) -> "SizeBody":
        """The row as it is shown, with the footprint for `tokens` of KV cache."""
        return cls(
            id=table.model_id(row),
            size=row.id,
            layers=row.layers,
            params=row.params,
            weight_bytes=row.weight_bytes,
            kv_bytes_per_token=row.kv_bytes_per_token,
            footprint_bytes=row.footprint_bytes(tokens),
            offered=row in table.offered,
            unavailable=table.missing.get(row.size),
            quality=QualityBody.of(row.quality),
            naive=QualityBody.of(naive),
        )


class SizesBody(BaseModel):
    """The reply of `GET /v1/sizes`; `data` is smallest first."""

    object: str = "list"
    family: str
    default: str
    footprint_tokens: int
    data: list[SizeBody]


class SizeFields(BaseModel):
    """The choice of a size, in every body that runs something, or asks what would run."""

    size: Any = Field(
        None, description=SIZE_HELP, json_schema_extra={**_SIZE, "examples": ["106m", 0.75]}
    )
    memory_budget: Any = Field(None, description=BUDGET_HELP, json_schema_extra=_BYTES)
    min_size: Any = Field(None, description=BOUND_HELP.format("smallest"), json_schema_extra=_SIZE)
    max_size: Any = Field(None, description=BOUND_HELP.format("largest"), json_schema_extra=_SIZE)

    def ask(self, model: object) -> Ask:
        """The choice, with the name of the model beside it."""
        return Ask(model, self.size, self.memory_budget, self.min_size, self.max_size)


class ModelField(BaseModel):
    """The name of a model, which may choose a size too."""

    model: Any = Field(None, json_schema_extra={"type": "string"})


class ResolveRequest(SizeFields, ModelField):
    """What would this request run?  KV cache is counted for context_tokens x concurrency."""

    model_config = ConfigDict(extra="allow")  # extras are refused by name, in the route

    context_tokens: Count | None = None
    concurrency: Count = 1


class ResolveBody(BaseModel):
    """The size that would run, why, and the KV tokens that its footprint counts."""

    model: str
    reason: str
    kv_tokens: int
    size: SizeBody


class BudgetRequest(BaseModel):
    """Another memory budget: '400MiB' or bytes; null holds every size."""

    model_config = ConfigDict(extra="forbid")

    memory_budget: Any = Field(
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
    )


class BudgetBody(BaseModel):
    """The memory budget of this server, and what follows from it.

    `changing`: a smaller budget waits for the requests that run at a size to be released.
    """

    memory_budget: int | None
    weight_bytes: int = Field(description="Of all sizes held, each tensor once.")
    kv_cache_bytes: int
    changing: bool
    sizes: list[str] = Field(description="Model names on offer, smallest first.")
    unavailable: dict[str, str] = Field(description="Size → why it is not held.")
    running: list[str] = Field(description="Sizes that requests run at, smallest first.")

    @classmethod
    def of(cls, residency: Residency) -> "BudgetBody":
        """As things are now."""
        plan, table = residency.plan, residency.policy.table
        return cls(
            memory_budget=plan.budget,
            weight_bytes=plan.weight_bytes,
            kv_cache_bytes=plan.kv_bytes,
            changing=residency.changing,
            sizes=[table.model_id(row) for row in table.offered],
            unavailable={table.rows[size].id: why for size, why in plan.missing.items()},
            running=[row.id for row in table.rows if residency.runs(row.size)],
        )


class ModelCard(BaseModel):
    """The family or an offered size, as `GET /v1/models` lists it; `parent` is the family."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "boomerang"
    root: str
    parent: str | None
    max_model_len: int
    size: SizeBody


class ModelsBody(BaseModel):
    """The reply of `GET /v1/models`."""

    object: str = "list"
    data: list[ModelCard]
