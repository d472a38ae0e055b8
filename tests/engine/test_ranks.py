"""A change of the sizes on one rank of several: what it does where it, or another, fails."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from boomerang_core.memory_plan import Span
from server.engine import size_change

pytestmark = pytest.mark.engine

LESS, OLD, NEW = Span(0, 0), Span(0, 1), Span(0, 3)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker whose model's calls, and its runner's, are noted in `calls`; alone."""
    calls = Mock()
    calls.model = Mock(held=OLD, resident_bytes=7)
    calls.runner.get_model.return_value = calls.model
    monkeypatch.setattr(size_change, "set_current_vllm_config", nullcontext)
    monkeypatch.setattr(size_change, "on_every_rank", lambda fine: fine)
    return SimpleNamespace(model_runner=calls.runner, vllm_config=None, calls=calls)


def after_the_model(worker: Any) -> list[str]:
    """What was called, but for the look at the model."""
    return [name for name, *_ in worker.calls.mock_calls if name != "runner.get_model"]


def test_weights_then_what_is_compiled_then_graphs(worker: Any) -> None:
    assert size_change.hold_sizes(worker, NEW) == 7
    assert after_the_model(worker) == ["model.hold", "model.prepare", "runner.sizes_changed"]


def test_what_fails_is_told_and_never_raised(worker: Any) -> None:
    worker.calls.model.hold.side_effect = [MemoryError("no memory"), None]
    assert size_change.hold_sizes(worker, NEW) == "no memory"
    worker.calls.model.hold.side_effect = None
    worker.calls.runner.sizes_changed.side_effect = RuntimeError
    assert size_change.hold_sizes(worker, NEW) == "RuntimeError"
    worker.calls.runner.get_model.side_effect = AttributeError("no model")
    assert size_change.hold_sizes(worker, NEW) == "no model"


@pytest.mark.parametrize("fails", ["model.prepare", "runner.sizes_changed"])
@pytest.mark.parametrize(("span", "left"), [(NEW, OLD), (LESS, LESS)])
def test_what_does_not_become_ready_is_given_up_again(
    worker: Any, fails: str, span: Span, left: Span
) -> None:
    """Or it takes memory that nobody may use: the server offers what it offered before."""
    worker.calls.configure_mock(**{f"{fails}.side_effect": OSError("disk full")})
    assert size_change.hold_sizes(worker, span) == "disk full"
    assert worker.calls.model.hold.mock_calls == [call(span), call(left)]
    assert after_the_model(worker)[-2:] == ["model.hold", "runner.drop_graphs"]


@pytest.mark.parametrize("failure", [None, RuntimeError("no memory")])
def test_a_heap_that_a_capture_thaws_is_frozen_again(
    worker: Any, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    def capture() -> None:
        heap.frozen = False
        if failure is not None:
            raise failure

    heap = Heap()
    monkeypatch.setattr(size_change, "gc", heap)
    worker.calls.runner.sizes_changed.side_effect = capture
    size_change.hold_sizes(worker, NEW)
    assert not heap.frozen  # it was not before, as on a CPU
    heap.freeze()
    size_change.hold_sizes(worker, NEW)
    assert heap.frozen


class Heap:
    """As the module `gc`; that of this process may be frozen by another test's engine."""

    frozen = False

    def collect(self) -> int:
        return 0

    def get_freeze_count(self) -> int:
        return int(self.frozen)

    def freeze(self) -> None:
        self.frozen = True


def test_where_another_rank_failed_it_holds_what_it_held_and_captures_nothing(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one would not take part in what a capture computes."""
    monkeypatch.setattr(size_change, "on_every_rank", lambda fine: False)
    assert size_change.hold_sizes(worker, NEW) == "another rank could not change its weights"
    assert worker.calls.model.hold.mock_calls == [call(NEW), call(OLD)]
    assert after_the_model(worker) == ["model.hold", "model.hold", "runner.drop_graphs"]


def test_where_another_rank_does_not_become_ready_it_gives_up_too(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = iter([True, False])
    monkeypatch.setattr(size_change, "on_every_rank", lambda fine: next(votes))
    assert size_change.hold_sizes(worker, NEW) == "another rank could not change its weights"
    assert worker.calls.model.hold.mock_calls == [call(NEW), call(OLD)]
