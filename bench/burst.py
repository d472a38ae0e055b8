"""Open-loop load beyond what the teacher sustains: `auto` against always-teacher, always-student.

    python -m bench.burst FAMILY --out FOLDER [--merge] [--seconds 30] [--loads 0.5 1 2 4]
        [--prompt-tokens 32] [--answer-tokens 32]
        [--first-token-seconds 2] [--token-seconds 0.2] [--seed 0]

Starts a server.  First, closed-loop clients find what the teacher sustains: the most requests a
second of which 95 in 100 meet the objective.  Then every policy gets the same seeded Poisson
arrivals at each multiple of that, after a rest in which the server is idle.  Open loop: a request
leaves when its time has come, whatever became of those before it, and its first token is counted
from that moment.  Writes FOLDER/burst.json and FOLDER/burst.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.burst_report import Cell, Outcome, markdown, summary
from bench.run import add_merge
from bench.servers import serving
from boomerang_core.cli import family_folder
from boomerang_core.errors import BoomerangError, SettingsError
from boomerang_core.family import Family, load_family
from boomerang_core.files import save_json, write_text
from boomerang_core.provenance import provenance
from server.load.chooser import RISE_SECONDS
from server.load.prediction import Latency

POLICIES = {"auto": "auto", "teacher": "teacher", "student": "student"}
_VOCABULARY = 200  # prompt tokens are drawn below it: every tokenizer has them
_CLIENTS = (1, 2, 4, 8, 16, 32)
_ENOUGH = 0.95


@dataclass(frozen=True)
class Load:
    """What every request looks like, and how long a run sends them."""

    seconds: float
    prompt_tokens: int
    answer_tokens: int
    seed: int

    def arrivals(self, rate: float) -> list[float]:
        """Seconds from the start of a run; the same for every policy."""
        draw, times, now = random.Random(self.seed), [], 0.0
        while (now := now + draw.expovariate(rate)) < self.seconds:
            times.append(now)
        return times

    def body(self, number: int) -> dict[str, Any]:
        """A request of this load; its prompt is its own, so that no cache knows it."""
        draw = random.Random(f"{self.seed}/{number}")
        prompt = [draw.randrange(3, _VOCABULARY) for _ in range(self.prompt_tokens)]
        fixed = {"max_tokens": self.answer_tokens, "ignore_eos": True, "temperature": 0}
        return {"prompt": prompt, "stream": True, **fixed}


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], due: float) -> Outcome:
    """Send one request and time its stream from `due`, on the monotonic clock."""
    times: list[float] = []
    try:
        async with client.stream("POST", url, json=body) as reply:
            size, reason = (reply.headers.get(f"x-boomerang-{name}") for name in ("size", "reason"))
            if reply.status_code != httpx.codes.OK:
                await reply.aread()
                return Outcome(reply.status_code, None)
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    times.append(time.monotonic())
    except httpx.HTTPError:
        return Outcome(0, None)
    if not times:
        return Outcome(0, size)
    per_token = (times[-1] - times[0]) / max(1, body["max_tokens"] - 1)
    return Outcome(200, size, times[0] - due, per_token, reason)


class Bench:
    """Runs loads against one server."""

    def __init__(self, client: httpx.AsyncClient, load: Load, objective: Latency) -> None:
        self._client, self._load, self._objective = client, load, objective
        self._sent = 0

    async def open_loop(self, size: str, rate: float) -> list[Outcome]:
        """All requests of a run, sent when they are due."""
        began = time.monotonic()

        async def one(at: float) -> Outcome:
            due = began + at
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            return await self._ask(size, due)

        return list(await asyncio.gather(*(one(at) for at in self._load.arrivals(rate))))

    async def sustained(self, seconds: float) -> float:
        """Requests a second that the teacher serves in time; `SettingsError` where none are."""
        best = 0.0
        for clients in _CLIENTS:
            outcomes, rate = await self._closed_loop(clients, seconds)
            met = sum(outcome.meets(self._objective) for outcome in outcomes) / len(outcomes)
            print(f"teacher, {clients} clients: {rate:.2f} requests/s, {met:.0%} in time")
            if met < _ENOUGH:
                break
            best = max(best, rate)
        if not best:
            raise SettingsError("the teacher misses the objective even alone: allow more seconds")
        return best

    async def _closed_loop(self, clients: int, seconds: float) -> tuple[list[Outcome], float]:
        began = time.monotonic()
        outcomes: list[Outcome] = []

        async def one() -> None:
            while time.monotonic() - began < seconds:
                outcomes.append(await self._ask("teacher", time.monotonic()))

        await asyncio.gather(*(one() for _ in range(clients)))
        return outcomes, len(outcomes) / (time.monotonic() - began)

    def _ask(self, size: str, due: float) -> Awaitable[Outcome]:
        self._sent += 1
        body = {**self._load.body(self._sent), "size": size}
        return ask(self._client, "/v1/completions", body, due)


async def measure(
    url: str, family: Family, load: Load, objective: Latency, loads: Sequence[float]
) -> dict[str, Any]:
    """The teacher's rate, and a summary for each policy and multiple of it."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        bench = Bench(client, load, objective)
        rate = await bench.sustained(min(load.seconds, 10.0))
        cells: list[Cell] = []
        for multiple in loads:
            for policy, size in POLICIES.items():
                await asyncio.sleep(RISE_SECONDS)  # as long as `auto` takes for idle
                outcomes = await bench.open_loop(size, multiple * rate)
                cells.append(summary(policy, multiple, outcomes, objective, family.table))
                print(cells[-1].line())
    return {"teacher_requests_per_second": rate, "cells": [cell.to_json() for cell in cells]}


def told(objective: Latency) -> dict[str, str]:
    """The settings by which a server has this objective."""
    return {
        "BOOMERANG_FIRST_TOKEN_SECONDS": str(objective.first_token_seconds),
        "BOOMERANG_TOKEN_SECONDS": str(objective.token_seconds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write both files; 2 where that makes no sense."""
    given = _parser().parse_args(arguments)
    objective = Latency(given.first_token_seconds, given.token_seconds)
    load = Load(given.seconds, given.prompt_tokens, given.answer_tokens, given.seed)
    try:
        family = load_family(family_folder(Path(given.family)))
        longest = max(256, load.prompt_tokens + load.answer_tokens)
        options = ["--max-model-len", str(longest), *["--merge"] * given.merge]
        with serving(family, options, told(objective)) as server:
            result = _run(lambda: measure(server.url, family, load, objective, given.loads))
    except BoomerangError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = {
        "family": family.name,
        "seconds": load.seconds,
        "prompt_tokens": load.prompt_tokens,
        "answer_tokens": load.answer_tokens,
        "objective": vars(objective),
        **result,
        **provenance(load.seed),
    }
    save_json(record, given.out / "burst.json")
    write_text(given.out / "burst.md", markdown(record))
    return 0


def _run(work: Callable[[], Any]) -> dict[str, Any]:
    measured: dict[str, Any] = asyncio.run(work())
    return measured


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.burst",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("family")
    add_merge(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--first-token-seconds", type=float, default=2.0)
    parser.add_argument("--token-seconds", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
