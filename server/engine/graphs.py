"""CUDA graphs for steps of one size or of many.

vLLM captures a graph for each number of rows and replays the one that fits a step: whole for steps
that only decode, and for those with prompts in pieces, between which attention runs.  Here it
captures one for each number of rows and each span of sizes (`graph_spans.py`): in a span of one
size the layers are fixed, in a wider one every row's size is read from a buffer (`masks.py`) that
the runner fills before the replay.  Steps of more rows than any graph has run as plans.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from boomerang_core.errors import SettingsError
from boomerang_core.memory_plan import Span
from server.engine.compat import (
    BatchDescriptor,
    CUDAGraphMode,
    set_cudagraph_capturing_enabled,
)
from server.engine.graph_spans import PROMPT_ROWS, span_for, spans_to_capture
from server.engine.loader import carried
from server.engine.masks import Graphed
from server.engine.one_sided import OneSided
from server.engine.plan import Ranks, Side
from server.engine.runner import RoutedRunner

BREAKS = "VLLM_USE_BREAKABLE_CUDAGRAPH=1"
"""With it vLLM breaks a graph at attention; without, only its compiler can."""

SCHEDULE = "scheduler_metadata"
"""Where FlashAttention's builder keeps the schedule of its kernel, and its metadata says it."""


@dataclass(frozen=True)
class RoutedBatch(BatchDescriptor):
    """vLLM's key of a graph, and the sizes that the graph serves."""

    span: Span | None = None


@cache
def routed_batch(batch: BatchDescriptor, span: Span) -> RoutedBatch:
    """vLLM's key, with the span."""
    return RoutedBatch(**asdict(batch), span=span)


class GraphedRunner(RoutedRunner):
    """The runner that carries plans, and replays graphs where a step has one."""

    graph_modes = (
        CUDAGraphMode.NONE,
        CUDAGraphMode.FULL_DECODE_ONLY,
        CUDAGraphMode.FULL_AND_PIECEWISE,
    )

    _graph: Graphed | None = None
    """What the graph of this step, or the one being captured, serves."""
    _capturing = False
    _spans: tuple[Span, ...] = ()
    """Those that are captured."""
    _missing: tuple[Span, ...] = ()
    """Those to capture next."""
    _prompt_rows: tuple[int, ...] = ()
    """Rows of graphs in pieces, in ascending order."""

    def __init__(self, vllm_config: Any, device: Any) -> None:
        super().__init__(vllm_config, device)
        self._row_sizes = self._make_buffer(self.max_num_tokens, dtype=torch.int32)
        self._offered: list[int] = carried(self.model_config.hf_config)["offered"]

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's; then the model says what there is to capture."""
        super().load_model(*args, **kwargs)
        self._missing = spans_to_capture(self._offered, self._routed.held)
        self._built_for = cache(self._needed)

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's; then the groups' builders keep their schedules in one place.

        A graph reads the schedule of each group's own builder, as it was captured; a step makes
        one schedule for all groups, with the first one's.
        """
        super().initialize_kv_cache(*args, **kwargs)
        self._one_sided = self._find_one_sided()
        groups = (group for groups in self.attn_groups for group in groups)
        builders = [builder for group in groups for builder in group.metadata_builders]
        kept = [getattr(builder, SCHEDULE, None) for builder in builders]
        shared = next((schedule for schedule in kept if schedule is not None), None)
        for builder, schedule in zip(builders, kept, strict=True):
            if schedule is not None:
                setattr(builder, SCHEDULE, shared)

    def _find_one_sided(self) -> OneSided:
        model, groups = self._routed, self.kv_cache_config.kv_cache_groups
        group_of = {name: g for g, group in enumerate(groups) for name in group.layer_names}
        sides = {
            name: (model.ranks.blocks[block], side)
            for name, block, side in model.attention_sides
            if side is not Side.ALL
        }
        shape = (len(sides), self.max_num_tokens)
        slots_AT = torch.empty(shape, dtype=torch.int64, device=self.device)
        return OneSided.of(sides, group_of, slots_AT)

    # ---- capture ----------------------------------------------------------------------------

    def _check_and_update_cudagraph_mode(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's, which has one list of rows for both kinds of graph; in pieces few are made."""
        super()._check_and_update_cudagraph_mode(*args, **kwargs)
        keys = self.cudagraph_dispatcher.cudagraph_keys[CUDAGraphMode.PIECEWISE]
        keys -= {key for key in keys if key.num_tokens not in PROMPT_ROWS}
        self._prompt_rows = tuple(sorted(key.num_tokens for key in keys))

    def capture_model(self) -> Any:
        """As vLLM's: the spans that are missing."""
        taken = super().capture_model()
        self._require_breaks()
        self._spans, self._missing = self._spans + self._missing, ()
        return taken

    def _require_breaks(self) -> None:
        """Raise `SettingsError` where attention became part of a graph in pieces.

        It does where vLLM was imported before it was told to break graphs there; a replay would
        then answer from what requests had been there at the capture: none.
        """
        for batch, graph in self._in_pieces.items():
            assert batch.span is not None, "a key of a graph has a span"
            layers = self._needed(batch.span, CUDAGraphMode.PIECEWISE)
            if graph.capture.num_eager_breaks != len(layers):
                raise SettingsError(f"{BREAKS} must be set before vLLM is imported")

    def _warmup_and_capture(self, desc: Any, *args: Any, **kwargs: Any) -> None:
        """As vLLM's, once for each span."""
        for span in self._missing:
            with self._captures(span):
                super()._warmup_and_capture(desc, *args, **kwargs)

    @contextmanager
    def _captures(self, span: Span) -> Iterator[None]:
        self._capturing = True
        self._one_sided.clear()
        self._graph = self._routed.graph = Graphed(span, self._row_sizes.gpu)
        try:
            yield
        finally:
            self._capturing = False
            self._graph = self._routed.graph = None

    def sizes_changed(self) -> None:
        """Drop the graphs of what is gone, and capture what is new: the rest keeps its addresses.

        Where that fails, the steps that those graphs would serve run as plans.
        """
        if self.compilation_config.cudagraph_mode == CUDAGraphMode.NONE:
            return
        self.drop_graphs()
        wanted = spans_to_capture(self._offered, self._routed.held)
        self._missing = tuple(span for span in wanted if span not in self._spans)
        if not self._missing:
            return
        try:
            self.capture_model()
        except BaseException:
            set_cudagraph_capturing_enabled(False)  # vLLM's own: it leaves capturing on
            self._drop_others()
            raise

    def drop_graphs(self) -> None:
        """Drop the graphs that the held sizes do not need: the weights of some are gone."""
        if self.compilation_config.cudagraph_mode == CUDAGraphMode.NONE:
            return
        wanted = spans_to_capture(self._offered, self._routed.held)
        self._spans = tuple(span for span in self._spans if span in wanted)
        self._drop_others()

    def _drop_others(self) -> None:
        """Drop the graphs of spans that do not count as captured."""
        for graphs in (self.model.concrete_cudagraph_entries, self._in_pieces):
            for batch in [batch for batch in graphs if batch.span not in self._spans]:
                del graphs[batch]

    @property
    def _in_pieces(self) -> dict[RoutedBatch, Any]:
        """The graphs in pieces; vLLM wraps the model for them only where they are on."""
        graphs: dict[RoutedBatch, Any] = getattr(self.model, "entries", {})
        return graphs

    # ---- a step -----------------------------------------------------------------------------

    def _determine_batch_execution_and_padding(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's, with the span in the graph's key; no graph where no span fits."""
        decide = super()._determine_batch_execution_and_padding
        graph = self._graph if self._capturing else self._fitting()
        if graph is None:
            return decide(*args, **{**kwargs, "force_eager": True})
        if kwargs["max_num_scheduled_tokens"] > 1:  # vLLM would pad to rows of decoding steps
            kwargs["num_tokens"] = self._rows_in_pieces(kwargs["num_tokens"])
        mode, batch, *rest = decide(*args, **kwargs)
        if not self._replays(mode):
            return mode, batch, *rest
        if not self._capturing:
            self._enter(graph, mode, batch.num_tokens, kwargs["num_scheduled_tokens_np"])
        return mode, routed_batch(batch, graph.span), *rest

    def _rows_in_pieces(self, rows: int) -> int:
        """The next number of rows that has graphs in pieces; `rows` where none has."""
        return next((padded for padded in self._prompt_rows if padded >= rows), rows)

    def _fitting(self) -> Graphed | None:
        """What the graph for this step serves; None where there is none, and in dummy runs."""
        if not self._sizes:
            return None
        span = span_for(self._spans, self._sizes[-1], self._sizes[0])
        return None if span is None else Graphed(span, self._row_sizes.gpu)

    def _replays(self, mode: Any) -> bool:
        return mode in (CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE)

    def _enter(self, graph: Graphed, mode: Any, rows: int, tokens: np.ndarray) -> None:
        """Take that graph for this step of so many `tokens` each, padded to `rows`."""
        self._graph = graph
        self._partial, self._whole = {}, self._built_for(graph.span, mode)
        if graph.mixed:
            sizes_T = np.repeat(self._sizes, tokens)
            self._row_sizes.np[: len(sizes_T)] = sizes_T
            self._row_sizes.np[len(sizes_T) : rows] = graph.span.largest
            self._row_sizes.copy_to_gpu(rows)

    def _needed(self, span: Span, mode: Any) -> frozenset[str]:
        """The attention layers for which a replay needs metadata built.

        In pieces, all that run.  Whole, those of one KV group: a replay reads none of it but the
        schedule, which is the same for all groups and which they keep in one place.
        """
        running = frozenset(self._running(span))
        if mode != CUDAGraphMode.FULL:
            return running
        parts = (part for group in self.attn_groups for part in group)
        return next(names for part in parts if (names := running.intersection(part.layer_names)))

    def _running(self, span: Span) -> Iterator[str]:
        """The attention layers that some size of the span runs."""
        ranks: Ranks = self._routed.ranks
        for name, block, side in self._routed.attention_sides:
            for_teacher = side is not Side.STUDENT and span.largest > ranks.blocks[block]
            for_student = side is not Side.TEACHER and span.smallest <= ranks.blocks[block]
            if for_teacher or for_student:
                yield name

    def _kept_apart(self, by_layer: Mapping[str, Any]) -> dict[str, Any]:
        """With schedules copied: for graphs, FlashAttention writes each into one buffer.

        The KV groups of a slice have metadata of their own around one schedule, copied once.
        """
        if self.compilation_config.cudagraph_mode == CUDAGraphMode.NONE:
            return dict(by_layer)
        copies: dict[int, torch.Tensor] = {}
        apart: dict[int, Any] = {}
        for metadata in by_layer.values():
            schedule = getattr(metadata, SCHEDULE, None)
            if schedule is not None and id(metadata) not in apart:
                if id(schedule) not in copies:
                    copies[id(schedule)] = schedule.clone()
                apart[id(metadata)] = replace(metadata, **{SCHEDULE: copies[id(schedule)]})
        return {name: apart.get(id(built), built) for name, built in by_layer.items()}

    def _get_slot_mappings(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As without graphs; in a mixed one, one-sided layers write their own rows only."""
        by_group, by_layer = super()._get_slot_mappings(*args, **kwargs)
        if self._graph is not None and self._graph.mixed and by_group:
            rows = len(by_group[0])
            if not self._capturing:
                self._one_sided.fill(by_group.values(), self._row_sizes.gpu[:rows])
            if self._runs_layers:
                by_layer |= self._one_sided.by_layer(rows)
        return by_group, by_layer

    @property
    def _runs_layers(self) -> bool:
        """Whether layers are called, and look for what is theirs: a replay calls none."""
        return self._capturing

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Say what is replayed, for vLLM to run without a graph where it has none."""
        self._routed.graph = self._graph
        return super()._model_forward(*args, **kwargs)

    def _forget(self) -> None:
        super()._forget()
        self._graph = self._routed.graph = None
        self._sizes = ()
