"""vLLM's V1 runner, carrying a plan: which rows of a step are whose.

Per step the runner orders the requests by size, plans the splits (`plan.py`), gives each
attention layer the metadata and KV slots of its own rows, and hands the plan to the model.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from boomerang_core.errors import SettingsError
from boomerang_core.kv_groups import layer_ranks
from server.engine.block_tables import joined
from server.engine.compat import (
    CompilationMode,
    CUDAGraphMode,
    GPUModelRunner,
    UBatchSlice,
    extract_layer_index,
)
from server.engine.kv import DepthSpec, by_depth
from server.engine.model import BoomerangForCausalLM
from server.engine.plan import Rows, StepPlan, build_plan, largest_first
from server.engine.sizes import remembered_size

OTHER_BACKEND = "set attention_backend (BOOMERANG_ATTENTION_BACKEND) to FLASH_ATTN or TRITON_ATTN"


def refuse_runner_v2(worker: Any) -> None:
    """Plans are carried by the V1 runner: under V2 every request would run as the teacher."""
    if worker.use_v2_model_runner:
        raise SettingsError("serving a family needs vLLM's V1 runner: VLLM_USE_V2_MODEL_RUNNER=0")


class RoutedRunner(GPUModelRunner):
    """The GPU runner; on the CPU, mixed into vLLM's runner, which derives from the GPU one."""

    attn_groups: list[list[Any]]
    num_prompt_logprobs: dict[str, int]

    graph_modes: tuple[Any, ...] = (CUDAGraphMode.NONE,)
    """The ways in which vLLM may use CUDA graphs here."""

    _plan: StepPlan | None = None
    _sizes: Sequence[int] = ()
    """The size of each request of the step, in the order of the batch."""
    _whole: frozenset[str] | None = None
    """Attention layers that run on all rows of the step; None without a plan."""
    _partial: Mapping[str, Rows] = {}
    """Attention layer → its rows, for the layers that run on a part of the step."""

    def __init__(self, vllm_config: Any, device: Any) -> None:
        super().__init__(vllm_config, device)
        config = self.compilation_config
        if config.mode != CompilationMode.NONE or config.cudagraph_mode not in self.graph_modes:
            raise SettingsError("vLLM's own compilation and CUDA graphs would bake one size in")
        if self.speculative_config is not None:
            raise SettingsError("speculative decoding is not supported with a family of sizes")
        self._planned = lru_cache(maxsize=1)(self._make_plan)  # most steps decode as the last did
        # Our admission is a logits processor to vLLM, for whose sake each step that is scheduled
        # ahead would wait for the last one's tokens.  It reads none.
        self.input_batch.logitsprocs_need_output_token_ids = False

    @property
    def _routed(self) -> BoomerangForCausalLM:
        model = self.get_model()
        assert isinstance(model, BoomerangForCausalLM)
        return model

    def _size(self, request_id: str) -> int:
        return remembered_size(self.requests[request_id], self._routed.ranks.teacher_size)

    # ---- start-up ---------------------------------------------------------------------------

    def get_kv_cache_spec(self) -> dict[str, Any]:
        """The teacher's KV pages alone; student layers borrow those of a teacher layer.

        Not through `kv_sharing_target_layer_name`: vLLM would then skip the KV write.  The layers
        are grouped by depth, but not for KV connectors: many of vLLM's know one group only.
        """
        spec: dict[str, Any] = super().get_kv_cache_spec()
        for ours, theirs in self._routed.kv_alias().items():
            spec.pop(ours, None)
            self.shared_kv_cache_layers[ours] = theirs
        if self.vllm_config.kv_transfer_config is not None:
            return spec
        names = sorted(spec, key=extract_layer_index)  # also of layers that are not held now
        return by_depth(spec, names, layer_ranks(self._routed.design))

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's; then the groups have one spec, and their block tables are joined.

        FlashAttention's builder makes a step's metadata once for groups of equal specs, and changes
        the block table alone; here nothing else in the groups' specs counts.
        """
        super().initialize_kv_cache(*args, **kwargs)
        for group in self.kv_cache_config.kv_cache_groups:
            if isinstance(group.kv_cache_spec, DepthSpec):
                group.kv_cache_spec = group.kv_cache_spec.plain()
        if any(part.kernel_block_size for group in self.attn_groups for part in group):
            raise SettingsError(
                "this attention backend needs smaller blocks than the KV cache has, which slices "
                f"of a step cannot be given; {OTHER_BACKEND}"
            )
        self.input_batch.block_table = joined(self.input_batch.block_table)

    def calculate_reorder_batch_threshold(self) -> None:
        """Refuse attention backends that need decodes first: our order is by size."""
        super().calculate_reorder_batch_threshold()
        if self.reorder_batch_threshold is not None:
            raise SettingsError(
                "this attention backend orders the batch itself, which a family of sizes cannot "
                f"follow; {OTHER_BACKEND}"
            )

    # ---- a step -----------------------------------------------------------------------------

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a step; the plan lives from batch preparation to the logits."""
        self._forget()
        try:
            return super().execute_model(scheduler_output, *args, **kwargs)
        finally:
            self._forget()
            self._routed.plan = None

    def _forget(self) -> None:
        self._plan, self._whole, self._partial = None, None, {}

    def _may_reorder_batch(self, scheduler_output: Any) -> None:
        """Order the requests by size, largest first, and plan the step."""
        super()._may_reorder_batch(scheduler_output)
        batch, teacher_size = self.input_batch, self._routed.ranks.teacher_size
        sizes = [remembered_size(self.requests[name], teacher_size) for name in batch.req_ids]
        for first, second in largest_first(sizes):
            batch.swap_states(first, second)
        tokens = scheduler_output.num_scheduled_tokens
        self._sizes = tuple(sorted(sizes, reverse=True))
        counts = tuple(tokens[request_id] for request_id in batch.req_ids)
        self._plan, self._whole, self._partial = self._planned(self._sizes, counts)

    def _make_plan(
        self, sizes: Sequence[int], tokens: Sequence[int]
    ) -> tuple[StepPlan, frozenset[str], Mapping[str, Rows]]:
        """The plan of a step, the attention layers that run on all of its rows, and on a part."""
        plan = build_plan(self._routed.ranks, sizes, tokens)
        rows = {
            name: plan.rows(block, side)
            for name, block, side in self._routed.attention_sides
            if plan.runs(block, side)
        }
        whole = frozenset(name for name, part in rows.items() if part is None)
        return plan, whole, {name: part for name, part in rows.items() if part is not None}

    def _get_slot_mappings(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """KV slots per layer, cut to the layer's rows; the last part keeps its padding."""
        by_group, by_layer = super()._get_slot_mappings(*args, **kwargs)
        for name, rows in self._partial.items():
            last = None if rows.first_token else rows.last_token
            by_layer[name] = by_layer[name][rows.first_token : last]
        return by_group, by_layer

    def _build_attention_metadata(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Metadata per layer: the whole step's, or that of the layer's rows.

        Each part is built by a call of its own: within one call, vLLM's FlashAttention builder
        would reuse the first micro-batch's metadata for the next.
        """
        names_of: dict[Rows, set[str]] = {}
        for name, rows in self._partial.items():
            names_of.setdefault(rows, set()).add(name)
        parts: dict[str, Any] = {}
        for rows, names in names_of.items():
            cut = [
                UBatchSlice(
                    slice(rows.first_request, rows.last_request),
                    slice(rows.first_token, rows.last_token),
                )
            ]
            with self._groups_of(names):
                per_slice, _ = super()._build_attention_metadata(
                    *args, **{**kwargs, "ubatch_slices": cut}
                )
            parts |= self._kept_apart({name: per_slice[0][name] for name in names})
        with self._groups_of(self._whole):  # last: what a builder keeps in place is then its own
            metadata, common = super()._build_attention_metadata(*args, **kwargs)
        return metadata | parts, common

    def _kept_apart(self, by_layer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Metadata of a slice; a builder may keep all that it builds in the same tensors."""
        return by_layer

    @contextmanager
    def _groups_of(self, names: Set[str] | None) -> Iterator[None]:
        """Let vLLM build metadata for the KV groups of those layers only; None: for all."""
        every = self.attn_groups
        if names is not None:
            self.attn_groups = [
                [part for part in group if not names.isdisjoint(part.layer_names)]
                for group in every
            ]
        try:
            yield
        finally:
            self.attn_groups = every

    def sizes_changed(self) -> None:
        """The model holds the weights of other sizes now, ready to run."""

    def drop_graphs(self) -> None:
        """The model has given weights up; here no graph reads any."""

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hand the plan to the model; it also splits the logits of this step."""
        self._routed.plan = self._plan
        return super()._model_forward(*args, **kwargs)

    def _get_prompt_logprobs_dict(
        self, hidden_states: Any, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, Any]:
        """Prompt logprobs, one pass per owner of the head.

        vLLM computes the logits of one request's prompt at a time, so every row of such a call
        has the request's own head.
        """
        model, wanted = self._routed, self.num_prompt_logprobs
        result: dict[str, Any] = {}
        for size in (model.ranks.teacher_size, 0):
            teachers_head = size == model.ranks.teacher_size
            in_pass = {
                request_id: count
                for request_id, count in wanted.items()
                if (self._size(request_id) > model.ranks.head) is teachers_head
            }
            if not in_pass:
                continue
            self.num_prompt_logprobs = dict(in_pass)  # vLLM takes finished requests out of it
            model.plan = build_plan(model.ranks, [size], [1], [hidden_states.shape[0]])
            try:
                result |= super()._get_prompt_logprobs_dict(hidden_states, num_scheduled_tokens)
                for finished in in_pass.keys() - self.num_prompt_logprobs.keys():
                    del wanted[finished]
            finally:
                self.num_prompt_logprobs, model.plan = wanted, None
        return result
