"""Routed Qwen3 layers in plain torch: one step on rows sorted by size.

The residual stream is updated in place, so that the two sides of a block write into their own rows
and nothing is joined.  A step neither syncs nor depends on data: it can be captured in a graph.

Legend: B rows (sequences), S new tokens of a row, T = B·S token rows (row by row), D hidden,
H query and key heads, N all heads (q, k, v), E head size, I inputs and O outputs of a linear map,
R rank times fused maps, L context, K key-value heads, V vocabulary.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu_layers.routes import LayerCall, Load, Shape, Step
from bench.gpu_layers.weights import Delta, Family, Layer, Maker, Vocabulary
from boomerang_core.route import Owner

EPS = 1e-6
THETA = 1e6


@dataclass(frozen=True)
class Sides:
    """One layer call's weights: the layer, and from token row `first` on the delta."""

    layer: Layer
    delta: Delta | None
    first: int

    def norm(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        """RMS norm with each side's weights."""
        width = (x_TD.shape[-1],)
        if self.delta is None:
            return functional.rms_norm(x_TD, width, self.layer.norms[name], EPS)
        if self.first == 0:
            return functional.rms_norm(x_TD, width, self.delta.norms[name], EPS)
        return self.scale(name, functional.rms_norm(x_TD, width, eps=EPS))

    def scale(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Multiply normed rows (T, …) by each side's weights; in place where there are two."""
        if self.delta is None:
            return x * self.layer.norms[name]
        if self.first == 0:
            return x * self.delta.norms[name]
        x[: self.first] *= self.layer.norms[name]
        x[self.first :] *= self.delta.norms[name]
        return x

    def linear(self, name: str, x_TI: torch.Tensor) -> torch.Tensor:
        """(T, I) → (T, O)."""
        y_TO = functional.linear(x_TI, self.layer.maps[name])
        self._add_delta(name, x_TI, y_TO)
        return y_TO

    def add_linear(self, name: str, x_TI: torch.Tensor, y_TO: torch.Tensor) -> None:
        """Add the map of x to y, in place."""
        y_TO.addmm_(x_TI, self.layer.maps[name].t())
        self._add_delta(name, x_TI, y_TO)

    def _add_delta(self, name: str, x_TI: torch.Tensor, y_TO: torch.Tensor) -> None:
        if self.delta is None:
            return
        low_TR = functional.linear(x_TI[self.first :], self.delta.a[name])
        y_TO[self.first :].addmm_(low_TR, self.delta.b[name].t())


@dataclass(frozen=True)
class Cache:
    """Keys and values (B, K, L, E) of each teacher layer, full of random context."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @classmethod
    def random(cls, shape: Shape, rows: int, context: int, make: Maker) -> "Cache":
        """A cache of `rows` sequences of `context` tokens, the new ones included."""
        size = (rows, shape.kv_heads, context, shape.head_dim)
        keys, values = (tuple(make.normal(*size) for _ in range(shape.layers)) for _ in "kv")
        return cls(keys, values)

    def clone(self) -> "Cache":
        """A copy that a step may overwrite."""
        return Cache(tuple(k.clone() for k in self.keys), tuple(v.clone() for v in self.values))


@dataclass(frozen=True)
class Rope:
    """Rotary tables (S, 1, E) of the new tokens; the sine of the first half is negated."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def at_end(cls, shape: Shape, load: Load, make: Maker) -> "Rope":
        """For the last `load.tokens` positions of `load.context`."""
        half = torch.arange(0, shape.head_dim, 2, device=make.device, dtype=torch.float64)
        frequencies = THETA ** (-half / shape.head_dim)
        positions = torch.arange(load.context - load.tokens, load.context, device=make.device)
        angles_SE = torch.outer(positions.double(), frequencies).repeat(1, 2)
        sin_SE = angles_SE.sin()
        sin_SE[:, : shape.head_dim // 2] *= -1
        return cls(angles_SE.cos()[:, None].to(make.dtype), sin_SE[:, None].to(make.dtype))

    def rotate(self, x_BSHE: torch.Tensor) -> torch.Tensor:
        """Rotate queries and keys."""
        swapped = torch.cat(x_BSHE.chunk(2, dim=-1)[::-1], dim=-1)
        return torch.addcmul(x_BSHE * self.cos, swapped, self.sin)


def backends(make: Maker) -> AbstractContextManager[None]:
    """Flash attention or an error where we measure; whatever torch chooses elsewhere."""
    if make.device.type == "cuda" and make.dtype is torch.bfloat16:
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    return nullcontext()


def attention(
    q_BHSE: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, causal: bool
) -> torch.Tensor:
    """Grouped-query attention over a whole cache, (B, heads, S, E)."""
    return functional.scaled_dot_product_attention(
        q_BHSE, keys, values, is_causal=causal, enable_gqa=True
    )


def _by_row(x: torch.Tensor, load: Load) -> torch.Tensor:
    """(T, heads, E) → (B, S, heads, E)."""
    return x.view(-1, load.tokens, *x.shape[1:])


def _attend(
    shape: Shape,
    load: Load,
    sides: Sides,
    call: LayerCall,
    qkv_TO: torch.Tensor,
    cache: Cache,
    rope: Rope,
) -> torch.Tensor:
    """Norm and rotate q and k, write k and v to the cache, attend: (T, heads · E)."""
    queried = shape.heads + shape.kv_heads
    qkv_TNE = qkv_TO.view(qkv_TO.shape[0], -1, shape.head_dim)
    normed_TNE = functional.rms_norm(qkv_TNE, (shape.head_dim,), eps=EPS)  # v's part is not used
    qk_THE = sides.scale("heads", normed_TNE[:, :queried])
    qk_BHSE = rope.rotate(_by_row(qk_THE, load)).transpose(1, 2)
    v_BKSE = _by_row(qkv_TNE[:, queried:], load).transpose(1, 2)
    keys, values = (part[call.cache][call.start : call.stop] for part in (cache.keys, cache.values))
    keys[:, :, -load.tokens :] = qk_BHSE[:, shape.heads :]
    values[:, :, -load.tokens :] = v_BKSE
    out_BHSE = attention(qk_BHSE[:, : shape.heads], keys, values, causal=load.tokens > 1)
    return out_BHSE.transpose(1, 2).reshape(qkv_TO.shape[0], -1)


def _run_call(
    family: Family, step: Step, call: LayerCall, x_TD: torch.Tensor, cache: Cache, rope: Rope
) -> None:
    """One layer on its rows of the residual stream, in place."""
    load = step.load
    own = family.teacher.layers if call.owner is Owner.TEACHER else family.layers
    delta = None if call.delta is None else family.deltas[call.delta]
    sides = Sides(own[call.index], delta, (call.delta_start - call.start) * load.tokens)
    rows_TD = x_TD[call.start * load.tokens : call.stop * load.tokens]
    qkv_TO = sides.linear("qkv", sides.norm("input", rows_TD))
    attended_TI = _attend(family.shape, load, sides, call, qkv_TO, cache, rope)
    sides.add_linear("o", attended_TI, rows_TD)
    gate_TI, up_TI = sides.linear("gate_up", sides.norm("post", rows_TD)).chunk(2, dim=-1)
    sides.add_linear("down", functional.silu(gate_TI) * up_TI, rows_TD)


def _by_owner(
    family: Family,
    x: torch.Tensor,
    first: int,
    run: Callable[[Vocabulary, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Rows before `first` with the teacher's vocabulary, the rest with the student's."""
    sides = ((Owner.TEACHER, x[:first]), (Owner.STUDENT, x[first:]))
    parts = [run(family.owned(owner), part) for owner, part in sides if len(part)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _embed(vocabulary: Vocabulary, ids_T: torch.Tensor) -> torch.Tensor:
    return functional.embedding(ids_T, vocabulary.embedding)


def _head(vocabulary: Vocabulary, x_BD: torch.Tensor) -> torch.Tensor:
    normed_BD = functional.rms_norm(x_BD, (x_BD.shape[-1],), vocabulary.norm, EPS)
    return functional.linear(normed_BD, vocabulary.head)


def run_step(
    family: Family, step: Step, ids_T: torch.Tensor, cache: Cache, rope: Rope
) -> torch.Tensor:
    """Logits (B, V) of each row's last token; writes the new tokens' keys and values."""
    x_TD = _by_owner(family, ids_T, step.plan.embedding, _embed)
    for call in step.calls:
        _run_call(family, step, call, x_TD, cache, rope)
    last_BD = x_TD.view(step.load.rows, step.load.tokens, -1)[:, -1]
    return _by_owner(family, last_BD, step.plan.head_rows, _head)
