"""The runner's bookkeeping of CUDA graphs, with vLLM's own capture and builders replaced."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher

from boomerang_core.errors import SettingsError
from boomerang_core.memory_plan import Span
from server.engine.compat import CUDAGraphMode, GPUModelRunner
from server.engine.graph_spans import PROMPT_ROWS, rows_to_capture, spans_to_capture
from server.engine.graphs import BREAKS, SCHEDULE, GraphedRunner, RoutedBatch
from server.engine.masks import Graphed
from server.engine.one_sided import NOWHERE, OneSided
from server.engine.plan import Rows, Side
from server.engine.runner import RoutedRunner

pytestmark = pytest.mark.engine

OFFERED = [0, 1, 3]


class Runner(GraphedRunner):
    """One that was never built, around a model of which only the held sizes count."""

    def __init__(self, held: Span) -> None:
        self.compilation_config = SimpleNamespace(cudagraph_mode=CUDAGraphMode.FULL_DECODE_ONLY)
        self.model = SimpleNamespace(held=held, concrete_cudagraph_entries={})
        self._offered = OFFERED
        self._missing = spans_to_capture(OFFERED, held)

    @property
    def _routed(self) -> Any:
        return self.model

    @contextmanager
    def _groups_of(self, names: Any) -> Iterator[None]:
        yield

    def graphs(self) -> set[Span]:
        return {batch.span for batch in self.model.concrete_cudagraph_entries}

    def hold(self, smallest: int, largest: int) -> None:
        self.model.held = Span(smallest, largest)
        self.sizes_changed()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    """Every span that was captured, in order."""
    done: list[Span] = []

    def capture(runner: Any) -> int:
        for span in runner._missing:
            done.append(span)
            batch = RoutedBatch(num_tokens=1, span=span)
            runner.model.concrete_cudagraph_entries[batch] = object()
            if span == Span(3, 3) and runner.model.held.smallest == 1:
                raise torch.OutOfMemoryError
        return 0

    monkeypatch.setattr(GPUModelRunner, "capture_model", capture)
    return done


def test_only_what_is_new_is_captured(captures: list[Span]) -> None:
    runner = Runner(Span(0, 3))
    runner.capture_model()
    assert runner.graphs() == set(runner._spans) == set(captures)
    captures.clear()
    runner.hold(0, 3)
    runner.hold(0, 1)
    assert captures == []
    assert runner.graphs() == set(runner._spans) == {Span(0, 0), Span(1, 1), Span(0, 1)}
    runner.hold(0, 3)
    assert captures == [Span(3, 3), Span(0, 3)]
    assert runner.graphs() == set(runner._spans) == set(spans_to_capture(OFFERED, Span(0, 3)))


def test_after_a_capture_that_failed_no_graph_is_promised(captures: list[Span]) -> None:
    runner = Runner(Span(1, 1))
    runner.capture_model()
    with pytest.raises(torch.OutOfMemoryError):
        runner.hold(1, 3)
    assert runner.graphs() == set(runner._spans) == {Span(1, 1)}
    runner.hold(0, 3)  # the next change tries again
    assert runner.graphs() == set(runner._spans) == set(spans_to_capture(OFFERED, Span(0, 3)))


def test_graphs_of_weights_that_are_given_up_again_are_dropped(captures: list[Span]) -> None:
    runner = Runner(Span(0, 3))
    runner.capture_model()
    runner.model.held = Span(0, 1)
    runner.drop_graphs()
    assert runner.graphs() == set(runner._spans) == {Span(0, 0), Span(1, 1), Span(0, 1)}


def test_graphs_in_pieces_are_dropped_with_their_sizes_too(captures: list[Span]) -> None:
    runner = Runner(Span(0, 3))
    runner.capture_model()
    batches = [RoutedBatch(num_tokens=32, span=span) for span in runner._spans]
    runner.model.entries = dict.fromkeys(batches)
    runner.model.held = Span(0, 1)
    runner.drop_graphs()
    assert {batch.span for batch in runner.model.entries} == set(runner._spans)


@pytest.mark.parametrize(
    ("requests", "prompts", "most"),
    [(24, True, 512), (24, True, 300), (24, True, 100), (24, False, 512), (300, True, 512)],
)
def test_every_step_has_the_graph_that_pads_it_least(
    monkeypatch: pytest.MonkeyPatch, requests: int, prompts: bool, most: int
) -> None:
    """With vLLM's own dispatcher, of so many requests at once and at most so many tokens a step."""
    rows = [each for each in rows_to_capture(requests, prompts) if each <= most]
    mode = CUDAGraphMode.FULL_AND_PIECEWISE if prompts else CUDAGraphMode.FULL_DECODE_ONLY
    compilation = SimpleNamespace(
        cudagraph_mode=mode,
        cudagraph_capture_sizes=rows,
        max_cudagraph_capture_size=rows[-1],
        compile_sizes=[],
        is_attention_compiled_piecewise=lambda: True,
    )
    config = SimpleNamespace(
        compilation_config=compilation,
        scheduler_config=SimpleNamespace(max_num_seqs=requests),
        num_speculative_tokens=0,
        lora_config=None,
    )
    monkeypatch.setattr(
        GPUModelRunner,
        "_check_and_update_cudagraph_mode",
        lambda runner: runner.cudagraph_dispatcher.initialize_cudagraph_keys(mode),
    )
    monkeypatch.setattr(
        GPUModelRunner,
        "_determine_batch_execution_and_padding",
        lambda runner, num_tokens, max_num_scheduled_tokens, **_: (
            runner.cudagraph_dispatcher.dispatch(num_tokens, max_num_scheduled_tokens == 1)
        ),
    )
    runner = Runner(Span(0, 3))
    runner.cudagraph_dispatcher = CudagraphDispatcher(config)
    runner._check_and_update_cudagraph_mode()
    runner._spans, runner._row_sizes = (Span(0, 0),), SimpleNamespace(gpu=None)
    runner._built_for = lambda span, mode: frozenset()

    def graph(counts: list[int]) -> tuple[Any, int]:
        runner._sizes = (0,) * len(counts)
        mode, batch = runner._determine_batch_execution_and_padding(
            num_tokens=sum(counts),
            max_num_scheduled_tokens=max(counts),
            num_scheduled_tokens_np=np.array(counts),
        )
        found = runner._graph is not None
        assert found == (mode != CUDAGraphMode.NONE) == isinstance(batch, RoutedBatch)
        assert not found or batch.span == Span(0, 0)
        runner._graph = None
        return mode, batch.num_tokens

    full, pieces, none = CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE, CUDAGraphMode.NONE
    assert graph([1] * 3) == (full, 4)
    assert graph([1] * 17) == (full, 24)
    if requests > 256:
        assert graph([1] * 290) == (pieces, 384)  # no more than 256 whole
    largest = max((each for each in PROMPT_ROWS if each <= most), default=0) if prompts else 0
    for tokens in (2, 16, 17, 40, 100, 256, 257, 300, 301, 512, 513):
        if tokens <= largest:
            wanted = min(each for each in PROMPT_ROWS if each >= tokens)
            assert graph([tokens]) == (pieces, wanted)
        else:
            assert graph([tokens]) == (none, tokens)


@pytest.mark.parametrize(("breaks", "is_refused"), [(2, False), (0, True), (1, True)])
def test_a_graph_that_did_not_break_at_attention_is_refused(
    monkeypatch: pytest.MonkeyPatch, breaks: int, is_refused: bool
) -> None:
    """It would replay the attention of the capture, where no request had been there."""
    runner = Runner(Span(0, 3))
    runner.model.ranks = SimpleNamespace(blocks=(0, 2))
    runner.model.attention_sides = [("kept", 0, Side.ALL), ("late", 1, Side.TEACHER)]
    capture = SimpleNamespace(num_eager_breaks=breaks)
    batch = RoutedBatch(num_tokens=32, span=Span(3, 3))
    runner.model.entries = {batch: SimpleNamespace(capture=capture)}
    monkeypatch.setattr(GPUModelRunner, "capture_model", lambda runner: 0)
    with pytest.raises(SettingsError, match=BREAKS) if is_refused else nullcontext():
        runner.capture_model()


def test_every_token_of_a_prompt_has_the_size_of_its_request() -> None:
    runner = Runner(Span(0, 3))
    runner._built_for = lambda span, mode: frozenset()
    runner._sizes = (3, 1)
    runner._row_sizes = SimpleNamespace(np=np.full(9, -7), copy_to_gpu=lambda rows: None)
    graph = Graphed(Span(0, 3), torch.empty(0))
    runner._enter(graph, CUDAGraphMode.PIECEWISE, 8, np.array([4, 2]))
    assert runner._row_sizes.np.tolist() == [3, 3, 3, 3, 1, 1, 3, 3, -7]


@dataclass(frozen=True)
class Metadata:
    """As FlashAttention's, in the one thing that counts here."""

    scheduler_metadata: torch.Tensor


def test_graphs_of_all_groups_read_the_schedule_that_a_step_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FlashAttention's builders have a buffer each; one of another backend has none."""
    runner = Runner(Span(0, 3))
    builders = [SimpleNamespace(scheduler_metadata=torch.zeros(3)) for _ in range(3)]
    without: Any = SimpleNamespace()
    runner.attn_groups = [
        [SimpleNamespace(metadata_builders=[builder])] for builder in (without, *builders)
    ]
    monkeypatch.setattr(RoutedRunner, "initialize_kv_cache", lambda runner: None)
    monkeypatch.setattr(Runner, "_find_one_sided", lambda runner: None)
    runner.initialize_kv_cache()
    assert not hasattr(without, "scheduler_metadata")
    assert len({builder.scheduler_metadata.data_ptr() for builder in builders}) == 1


def test_metadata_for_a_replay_is_built_for_one_group(captures: list[Span]) -> None:
    """The first one that a size of the span runs: a replay reads its schedule, and nothing else.

    Between the pieces of a graph attention runs, in every layer.
    """
    runner = Runner(Span(0, 3))
    runner.model.ranks = SimpleNamespace(blocks=(0, 2))
    runner.model.attention_sides = [
        ("kept", 0, Side.ALL),
        ("early", 0, Side.TEACHER),
        ("late", 1, Side.TEACHER),
    ]
    runner.attn_groups = [[SimpleNamespace(layer_names=[name])] for name in ("late", "early")]
    runner.attn_groups.append([SimpleNamespace(layer_names=["kept"])])
    whole, pieces = CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE
    assert runner._needed(Span(3, 3), whole) == {"late"}
    assert runner._needed(Span(1, 2), whole) == {"early"}
    assert runner._needed(Span(0, 0), whole) == {"kept"}
    assert runner._needed(Span(1, 2), pieces) == {"early", "kept"}


def test_one_sided_layers_write_where_their_own_rows_are() -> None:
    """Of two KV groups; layer `a` runs on sizes above 1, `b` up to 1, `c` above 2."""
    slots_AT = torch.full((3, 8), -7)
    sides = {"a": (1, Side.TEACHER), "b": (1, Side.STUDENT), "c": (2, Side.TEACHER)}
    layers = OneSided.of(sides, {"a": 0, "b": 1, "c": 1}, slots_AT)
    layers.fill([torch.tensor([5, 6, 7]), torch.tensor([15, 16, 17])], torch.tensor([3, 2, 1]))
    assert {name: slots.tolist() for name, slots in layers.by_layer(3).items()} == {
        "a": [5, 6, NOWHERE],
        "b": [NOWHERE, NOWHERE, 17],
        "c": [15, NOWHERE, NOWHERE],
    }
    layers.clear()
    assert not slots_AT.any()


def test_flash_attention_keeps_its_schedule_where_we_look_for_it() -> None:
    """Its name is all that our code knows of it, and looks for it where there may be none."""
    module = import_module("vllm.v1.attention.backends.flash_attn")
    assert SCHEDULE in module.FlashAttentionMetadataBuilder.__init__.__code__.co_names
    assert SCHEDULE in {field.name for field in fields(module.FlashAttentionMetadata)}


def test_a_builder_that_keeps_its_schedule_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of a step has its own schedule, and the whole step has it in the builder's."""
    kept = torch.zeros(1)

    def build(runner: Any, ubatch_slices: Any = None) -> Any:
        kept.fill_(ubatch_slices[0].token_slice.start if ubatch_slices else 99)
        metadata = {name: Metadata(kept) for name in ("a", "a of another group", "b", "whole")}
        return ([metadata] if ubatch_slices else metadata), None

    monkeypatch.setattr(GPUModelRunner, "_build_attention_metadata", build)
    runner = Runner(Span(0, 3))
    runner._whole = frozenset({"whole"})
    first = Rows(0, 1, 0, 5)
    runner._partial = {"a": first, "a of another group": first, "b": Rows(1, 2, 5, 8)}
    metadata, _ = runner._build_attention_metadata()
    schedules = {name: each.scheduler_metadata for name, each in metadata.items()}
    assert {name: int(schedule) for name, schedule in schedules.items()} == {
        "a": 0,
        "a of another group": 0,
        "b": 5,
        "whole": 99,
    }
    assert schedules["a"] is schedules["a of another group"]
    assert schedules["whole"] is kept
