"""Bodies of our own endpoints."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from boomerang_core.sizes import GRAMMAR, SizeRow, SizeTable

SIZE_HELP = (
    f"The size to run, one of {GRAMMAR}, or 'auto': the largest that keeps the server's latency "
    "objective under the present load. Parameters and shares are upper bounds."
)
BOUND_HELP = (
    "The {} size that 'auto' may choose, in the form of size; given alone it asks for 'auto'."
)
BUDGET_HELP = "Memory the size may take standing alone, KV cache included: '300MiB' or bytes."

# Any JSON value gets in, so that `sizing.py` refuses bad ones, with what would fit.
SizeField = Annotated[
    Any, Field(description=SIZE_HELP, json_schema_extra={"type": "string", "examples": ["106m"]})
]
BudgetField = Annotated[
    Any,
    Field(
        description=BUDGET_HELP,
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "integer"}]},
    ),
]
MinSizeField = Annotated[
    Any, Field(description=BOUND_HELP.format("smallest"), json_schema_extra={"type": "string"})
]
MaxSizeField = Annotated[
    Any, Field(description=BOUND_HELP.format("largest"), json_schema_extra={"type": "string"})
]
Count = Annotated[StrictInt, Field(ge=1, le=10**9)]


class QualityBody(BaseModel):
    """Measured on held-out text: KL to the teacher in nats a token; `n` tokens were scored."""

    kl: float
    top1: float
    perplexity: float
    n: int


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
    quality: QualityBody | None

    @classmethod
    def of(cls, table: SizeTable, row: SizeRow, tokens: int) -> "SizeBody":
        """The row as it is shown, with the footprint for `tokens` of KV cache."""
        quality = row.quality
        return cls(
            id=table.model_id(row),
            size=row.id,
            layers=row.layers,
            params=row.params,
            weight_bytes=row.weight_bytes,
            kv_bytes_per_token=row.kv_bytes_per_token,
            footprint_bytes=row.footprint_bytes(tokens),
            offered=row.offered,
            quality=None
            if quality is None
            else QualityBody(
                kl=quality.kl, top1=quality.top1, perplexity=quality.perplexity, n=quality.n
            ),
        )


class SizesBody(BaseModel):
    """The reply of `GET /v1/sizes`; `data` is smallest first."""

    object: str = "list"
    family: str
    default: str
    footprint_tokens: int
    data: list[SizeBody]


class ResolveRequest(BaseModel):
    """What would this request run?  KV cache is counted for context_tokens x concurrency."""

    model_config = ConfigDict(extra="allow")  # extras are refused by name, in the route

    model: Any = Field(None, json_schema_extra={"type": "string"})
    size: SizeField = None
    memory_budget: BudgetField = None
    min_size: MinSizeField = None
    max_size: MaxSizeField = None
    context_tokens: Count | None = None
    concurrency: Count = 1


class ResolveBody(BaseModel):
    """The size that would run, why, and the KV tokens that its footprint counts."""

    model: str
    reason: str
    kv_tokens: int
    size: SizeBody


class ModelCard(BaseModel):
    """An offered size, as `GET /v1/models` lists it."""

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
