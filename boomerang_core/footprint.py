"""Footprints: parameters and bytes of a size, computed from shapes alone.

*Standalone* is what a size costs when it is served by itself: the weights of its route, both
vocabulary matrices when they are untied, and the KV cache of a stated number of tokens.
*Resident* is what the server holds to offer every size.
"""

from dataclasses import dataclass

from boomerang_core.route import Route

FOOTPRINT_TOKENS = 2048
"""Tokens of KV cache that a family's footprints count, where it does not say otherwise."""


@dataclass(frozen=True)
class ModelShape:
    """Parameter counts and KV shape of a teacher.

    `embedding_params` counts token (and learned position) embeddings, `head_params` the LM head
    even where it is tied to the embedding, `norm_params` the final norm.
    """

    num_layers: int
    hidden_size: int
    num_kv_heads: int
    head_dim: int
    layer_params: int
    embedding_params: int
    head_params: int
    norm_params: int
    tied: bool
    bytes_per_param: int = 2

    def __post_init__(self) -> None:
        counts = (self.num_layers, self.hidden_size, self.num_kv_heads, self.head_dim)
        assert all(count > 0 for count in counts)
        assert self.bytes_per_param in (1, 2, 4)


def route_params(shape: ModelShape, route: Route) -> int:
    """Parameters of a size on its own.

    A tied model becomes untied where embedding and head have different owners: both matrices
    are then live and both count.
    """
    untied = not shape.tied or route.embedding is not route.head
    vocabulary = shape.embedding_params + (shape.head_params if untied else 0)
    return len(route.layers) * shape.layer_params + vocabulary + shape.norm_params


def kv_bytes_per_token(shape: ModelShape, num_layers: int) -> int:
    """KV-cache bytes of one token in `num_layers` layers (keys and values)."""
    return 2 * num_layers * shape.num_kv_heads * shape.head_dim * shape.bytes_per_param


def footprint_bytes(weight_bytes: int, kv_bytes_per_token: int, tokens: int) -> int:
    """Standalone footprint: weights plus the KV cache of `tokens` tokens, in bytes."""
    return weight_bytes + kv_bytes_per_token * tokens


def teacher_params(shape: ModelShape) -> int:
    """Parameters of the teacher alone."""
    vocabulary = shape.embedding_params + (0 if shape.tied else shape.head_params)
    return shape.num_layers * shape.layer_params + vocabulary + shape.norm_params


def resident_params(shape: ModelShape, student_params: int) -> int:
    """Parameters that the server holds to offer every size: each tensor once."""
    return teacher_params(shape) + student_params
