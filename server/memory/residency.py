"""Which sizes a running server has: the memory budget, and its changes under load.

A smaller budget first stops new requests from choosing what will go, then waits for those that
run, and only then lets the engine release weights.  A larger one lets the engine read one size
after another, between steps, and offers each as soon as it is there.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from boomerang_core.errors import BudgetError, SettingsError, SizeError
from boomerang_core.family import Family
from boomerang_core.memory_plan import MemoryPlan, Residents, Span, plan_memory
from boomerang_core.sizes import format_bytes
from server.sizing import Policy


class Holder(Protocol):
    """What is needed of an engine."""

    async def hold_sizes(self, span: Span) -> int:
        """Hold the weights of those sizes and no others; bytes of weights held then."""
        ...


class BusyError(Exception):
    """A change of the budget is still going on."""


class Residency:
    """The sizes that a server has now, and the requests that run at each."""

    def __init__(
        self,
        family: Family,
        kv_bytes: int,
        budget: int | None,
        default: str | None = None,
        room: Callable[[], int] | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        """`family` with the footprints of the served format; `budget` in bytes, KV cache included;
        `default`: the default size, or `auto`, where it is not the family's; `room`: bytes that
        more weights may take now, None where that is for the device to say; `names`: further ones
        of the family.

        Raises `SettingsError` where the budget fits no size or the default is none.
        """
        self._family, self._kv_bytes = family, kv_bytes
        self._residents = Residents.of(family)
        try:
            self._whole = Policy.of(family, default, names)
        except SizeError as error:
            raise SettingsError(f"default_size: {error}") from error
        self._room = room
        self._running: Counter[int] = Counter()
        self._ended = asyncio.Event()
        self._changing = asyncio.Lock()
        try:
            self.plan = self._plan(budget)
        except BudgetError as error:
            raise SettingsError(str(error)) from error

    @property
    def plan(self) -> MemoryPlan:
        """What is held at this moment."""
        return self._now

    @plan.setter
    def plan(self, plan: MemoryPlan) -> None:
        self._now = plan
        self.policy = self._whole.without(plan.missing)
        """What is offered at this moment; for one request, ask once."""

    @property
    def changing(self) -> bool:
        """Whether a change of the budget is going on."""
        return self._changing.locked()

    def runs(self, size: int) -> bool:
        """Whether a request runs at a size, from the choice of the size to the last byte."""
        return self._running[size] > 0

    @contextmanager
    def lease(self, size: int) -> Iterator[None]:
        """Keep the weights of a size while a request runs at it.

        Enter it in the step of the event loop that chose the size, or under another lease of it.
        """
        assert size in self.plan.span or self._running[size], "its weights may be gone"
        self._running[size] += 1
        try:
            yield
        finally:
            self._running[size] -= 1
            self._ended.set()

    async def change(self, budget: int | None, engine: Holder) -> int:
        """Follow another budget; bytes of weights held then.  None: hold every size.

        Returns when it is done; running requests have finished at their sizes.  Raises
        `BudgetError` where the budget fits no size or the machine lacks the memory, `BusyError`
        while another change goes on, `EngineError` where the engine cannot follow.
        """
        target = self._plan(budget)
        self._require_room(target)
        if self.changing:
            raise BusyError("a change of the memory budget is going on: its requests finish first")
        async with self._changing:
            await self._shrink(target, engine)
            held = 0
            for span in self._steps(self.plan.span, target.span):
                held = await engine.hold_sizes(span)
                self._offer(target, span)
            self.plan = target
            return held

    def _require_room(self, target: MemoryPlan) -> None:
        more = target.weight_bytes - self.plan.weight_bytes
        if self._room is not None and more > max(room := self._room(), 0):
            raise BudgetError(
                f"not enough memory: the weights would take {format_bytes(more)} more, with "
                f"{format_bytes(max(room, 0))} available"
            )

    def _plan(self, budget: int | None) -> MemoryPlan:
        return plan_memory(self._family, self._residents, budget, self._kv_bytes)

    async def _shrink(self, target: MemoryPlan, engine: Holder) -> None:
        """Give up what the target has not, once nobody runs it."""
        now = self.plan.span
        kept = Span(max(now.smallest, target.span.smallest), min(now.largest, target.span.largest))
        if kept == now:
            return
        self._offer(target, kept)
        while any(count and size not in kept for size, count in self._running.items()):
            self._ended.clear()
            await self._ended.wait()
        await engine.hold_sizes(kept)

    def _steps(self, now: Span, target: Span) -> Iterator[Span]:
        """From the sizes held to the target, one more offered size at a time, so that no step of
        the engine waits long, and a GPU captures no graphs for sizes on the way alone."""
        for row in self._family.rows:
            if row.offered and now.largest < row.size < target.largest:
                yield Span(now.smallest, row.size)
        yield target

    def _offer(self, target: MemoryPlan, span: Span) -> None:
        """Offer the sizes of `span` only, on the way to a plan.

        Its budget counts from here on: should the engine fail to follow, it stops in between.
        """
        unread = "its weights are not loaded at present"
        missing = {
            row.size: target.missing.get(row.size, unread)
            for row in self._family.rows
            if row.size not in span
        }
        weights = self._residents.weight_bytes(span)
        self.plan = replace(target, span=span, weight_bytes=weights, missing=missing)
