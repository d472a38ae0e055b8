"""KV memory in proportion to depth: a request holds blocks for the layers that it runs.

vLLM lets a KV-cache spec bring its own manager.  Ours marks each layer's spec with its group
(`boomerang_core/kv_groups.py`), so that vLLM makes those groups, and its manager hands out no block
of a group to a request that runs none of its layers.  Every group draws from vLLM's one pool of
blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

from boomerang_core.kv_groups import choose_groups
from boomerang_core.ladder import ALWAYS_TEACHER
from server.engine.compat import (
    FullAttentionManager,
    FullAttentionSpec,
    HybridKVCacheCoordinator,
    KVCacheManager,
    KVCacheSpecRegistry,
)


@dataclass(frozen=True, kw_only=True)
class DepthSpec(FullAttentionSpec):
    """Full attention of the layers of one group, which sizes above `rank` run."""

    group: int
    rank: int

    @classmethod
    def merge(cls, specs: list[Any]) -> Any:
        """The spec of a group.  `AssertionError`, as vLLM expects, for layers of two groups."""
        assert len(set(specs)) == 1, "layers of one group have one spec"
        return replace(specs[0])

    def plain(self) -> FullAttentionSpec:
        """Without group and rank: the same for all groups of a model."""
        return FullAttentionSpec(**_values(self, FullAttentionSpec))

    def is_uniform_with_collection(self, kv_cache_specs: dict[str, Any]) -> bool:
        """Whether all are of one group: or vLLM would put every layer into one."""
        return all(spec == self for spec in kv_cache_specs.values())


class DepthManager(FullAttentionManager):
    """The blocks of one group: none for requests that do not run its layers."""

    kv_cache_spec: DepthSpec
    size_of: Callable[[str], int]
    """Request id → its size; given by `DepthKVCacheManager`, as vLLM builds these."""

    def _runs(self, request_id: str) -> bool:
        return self.size_of(request_id) > self.kv_cache_spec.rank

    def get_num_blocks_to_allocate(self, request_id: str, *args: Any, **kwargs: Any) -> int:
        """As vLLM's; 0 where the request does not run the group's layers."""
        if not self._runs(request_id):
            return 0
        return int(super().get_num_blocks_to_allocate(request_id, *args, **kwargs))

    def allocate_new_blocks(self, request_id: str, *args: Any, **kwargs: Any) -> list[Any]:
        """As vLLM's; none where the request does not run the group's layers."""
        if not self._runs(request_id):
            return []
        blocks: list[Any] = super().allocate_new_blocks(request_id, *args, **kwargs)
        return blocks

    def cache_blocks(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """As vLLM's; there is nothing to cache where the request holds nothing."""
        if self._runs(request.request_id):
            super().cache_blocks(request, *args, **kwargs)


class DepthKVCacheManager(KVCacheManager):
    """vLLM's manager of all groups, which looks for cached prefixes in a request's own groups."""

    def __init__(self, *args: Any, size_of: Callable[[str], int], **kwargs: Any) -> None:
        """vLLM's arguments, and how to tell a request's size from its id, while it lives."""
        super().__init__(*args, **kwargs)
        self._size_of = size_of
        coordinator = self.coordinator
        self._managers = coordinator.single_type_managers
        for manager in self._managers:
            if isinstance(manager, DepthManager):
                manager.size_of = size_of
        self._block_size = _common_block_size(self._managers)
        # How vLLM looks for a prefix in each group; with one group, or no cache, it needs no help.
        self._lookups = (
            tuple(coordinator.attention_groups)
            if isinstance(coordinator, HybridKVCacheCoordinator)
            else ()
        )

    def allocate_slots(
        self, request: Any, num_new_tokens: int, *, num_lookahead_tokens: int = 0, **kwargs: Any
    ) -> Any:
        """As vLLM's; at once where the tokens stay inside the last block that the request holds.

        No group then hands out, caches or frees a block: so it is in most steps of a request that
        decodes, and vLLM would ask every group.
        """
        if not kwargs and not num_lookahead_tokens:
            place = request.num_computed_tokens % self._block_size
            if 0 < place < self._block_size - num_new_tokens:
                return self.empty_kv_cache_blocks
        kwargs["num_lookahead_tokens"] = num_lookahead_tokens
        return super().allocate_slots(request, num_new_tokens, **kwargs)

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """As vLLM's; at once where no block has ended since the last call.

        A scheduler that works ahead asks for every token.  All groups of a request cache alike, and
        every size runs the first.
        """
        cached = self._managers[0].num_cached_block.get(request.request_id, 0)
        if self._block_size == 1 or cached < num_computed_tokens // self._block_size:
            super().cache_blocks(request, num_computed_tokens)

    def pop_blocks_for_free(self, request: Any) -> list[Any]:
        """As vLLM's, but place by place instead of group by group.

        Blocks are evicted last to first, and a hit needs all groups.  In this order the beginning
        of a prompt stays of use; a lost group would leave nothing of it.
        """
        groups = [each.pop_blocks_for_free(request.request_id) for each in self._managers]
        return [block for place in zip_longest(*groups) for block in place if block is not None]

    def free(self, request: Any) -> None:
        """As vLLM's, in the order of `pop_blocks_for_free`."""
        self.block_pool.free_blocks(reversed(self.pop_blocks_for_free(request)))

    def get_computed_blocks(self, request: Any) -> Any:
        """As vLLM's; only the groups that the request runs must agree on the hit."""
        if self._lookups:
            size = self._size_of(request.request_id)
            self.coordinator.attention_groups = [
                lookup
                for lookup in self._lookups
                if getattr(lookup.spec, "rank", ALWAYS_TEACHER) < size
            ]
        return super().get_computed_blocks(request)

    def estimate_cached_tokens(self, request: Any) -> int:
        """Tokens of the request in the prefix cache, as its first group has them.

        vLLM takes the least of all groups, which is 0 where a request does not run them all.
        """
        if not self._lookups:
            return int(super().estimate_cached_tokens(request))
        first = self.get_blocks(request.request_id).blocks[0]
        return max((block.block_hash_num_tokens or 0 for block in first), default=0)


def _common_block_size(managers: Sequence[Any]) -> int:
    """Tokens of a block, where every group keeps all blocks of a request until it ends.

    Else 1: each token then ends a block, and vLLM asks every group each time.
    """
    sizes = {manager.block_size for manager in managers}
    keep_all = {type(manager) for manager in managers} <= {DepthManager, FullAttentionManager}
    return sizes.pop() if keep_all and len(sizes) == 1 else 1


KVCacheSpecRegistry.check_kv_cache_spec_registry({})  # registers vLLM's own, if nothing is yet
KVCacheSpecRegistry.register(DepthSpec, DepthManager, FullAttentionSpec)


def by_depth(
    specs: Mapping[str, Any], layers: Sequence[str], ranks: Sequence[int]
) -> dict[str, Any]:
    """The specs of a family's layers, marked with their groups, in the order of the groups.

    Args:
        specs: attention layer → vLLM's spec for it.
        layers: the attention layers, first to last.
        ranks: the rank of each of them.

    Where vLLM's specs differ between layers (sliding windows) they are returned as they are: such
    models have vLLM's own groups, which ours would cut across.
    """
    kinds = {type(spec) for spec in specs.values()}
    if kinds != {FullAttentionSpec} or len(set(specs.values())) > 1:
        return dict(specs)
    assert specs.keys() == set(layers), "one spec for each layer, and for nothing else"
    groups = choose_groups(ranks)
    if len(groups.layers) == 1:
        return dict(specs)
    return {
        layers[layer]: _marked(specs[layers[layer]], index, rank)
        for index, (group, rank) in enumerate(zip(groups.layers, groups.ranks, strict=True))
        for layer in group
    }


def _marked(spec: Any, group: int, rank: int) -> DepthSpec:
    return DepthSpec(**_values(spec, FullAttentionSpec), group=group, rank=rank)


def _values(spec: Any, kind: Any) -> dict[str, Any]:
    """What a spec of that kind is made from."""
    return {field.name: getattr(spec, field.name) for field in fields(kind) if field.init}
