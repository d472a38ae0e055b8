"""A soak: a real server on loopback at a set load, with clients that behave badly.

    python -m bench.soak FAMILY --minutes 20 --rate 4

What else is given goes to `boomerang serve`.
Requests begin at random times, `--rate` a second on average, whether earlier ones are done or not.
Most are read to their end; the others are cancelled by a disconnect, early or late, or make no
sense.  Prints JSON: the server's memory after warm-up and at the end, what runs, waits and holds
KV-cache blocks once all clients are gone, and how many answers were lost, cut or doubled.

Every good answer is greedy and asks for an exact number of tokens, so that a lost or doubled token
shows: the usage must say that number, and a stream must bring as many pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.provenance import provenance

BAD: tuple[tuple[dict[str, Any], int], ...] = (
    ({"size": "huge"}, 400),
    ({"memory_budget": "1KiB"}, 400),
    ({"memory_budgt": "1GiB"}, 400),
    ({"model": "gpt-4"}, 404),
    ({"max_tokens": 10**7}, 400),
    ({"temperature": -1}, 400),
    ({"stop": ["x"] * 100}, 400),
    ({"prompt": "x" * (5 << 20)}, 413),
)
IDLE = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
START_SECONDS, IDLE_SECONDS = 600, 30
WARM_UP = 0.2  # of the time; memory grows while caches fill


Ask = Callable[[dict[str, Any], int], Awaitable[str]]
"""A body and the tokens that it asks for → what became of it, in a word."""


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the server's processes, by name, at a second of the soak."""

    second: float
    bytes: dict[str, int]


def memory_of(process: int, began: float) -> Memory:
    """The memory of a process and its descendants."""
    server = psutil.Process(process)
    amounts: Counter[str] = Counter()
    for one in (server, *server.children(recursive=True)):
        title = " ".join(one.cmdline()).strip()
        name = title.split("::")[-1] if title.startswith("VLLM::") else "other"
        amounts["http" if one.pid == process else name] += one.memory_info().rss
    return Memory(round(time.monotonic() - began, 1), dict(amounts))


class Soak:
    """Clients of one server, and what became of their requests."""

    def __init__(self, url: str, family: Family, most_tokens: int, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._client = httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits())
        self._sizes = [family.table.model_id(row) for row in family.table.offered]
        self._most_tokens = most_tokens
        self._source = random.Random(seed)
        self._kinds: dict[str, tuple[float, Ask]] = {  # how often, and what such a client does
            "whole": (0.5, self._whole),
            "stream": (0.25, self._stream),
            "cancelled": (0.1, self._cancelled),
            "gone": (0.05, self._gone),
            "bad": (0.1, self._bad),
        }

    async def run(self, seconds: float, rate: float) -> None:
        """Begin requests for so long, then wait until every one of them has ended."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as clients:
            while (now := time.monotonic()) < end:
                clients.create_task(self._client_of(self._kind()))
                await asyncio.sleep(min(self._source.expovariate(rate), end - now))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _kind(self) -> str:
        shares = [share for share, _ in self._kinds.values()]
        return self._source.choices(list(self._kinds), shares)[0]

    async def _client_of(self, kind: str) -> None:
        """One client: what it asks, and what it must get."""
        tokens = self._source.randint(4, self._most_tokens)
        words = self._source.choices(("once", "upon", "a", "time", "there", "was"), k=12)
        body = {
            "model": self._source.choice(self._sizes),
            "prompt": " ".join(words),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        try:
            outcome = await self._kinds[kind][1](body, tokens)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            outcome = f"lost: {type(error).__name__}"
        if outcome.startswith(("lost", "wrong")):
            self.wrong.append(f"{kind}: {outcome}")
        self.outcomes[f"{kind}: {outcome}"] += 1

    async def _whole(self, body: dict[str, Any], tokens: int) -> str:
        """Read the answer in one piece."""
        reply = await self._client.post("/v1/completions", json=body)
        if reply.status_code == 429:
            return "refused"
        answer = reply.json()
        counted = answer["usage"]["completion_tokens"]
        right = counted == tokens and answer["model"] == body["model"]
        return "right" if right and len(answer["choices"]) == 1 else f"wrong: {answer}"

    async def _stream(self, body: dict[str, Any], tokens: int) -> str:
        """Read a stream to its end."""
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self._client.stream("POST", "/v1/completions", json=asked) as reply:
            if reply.status_code == 429:
                return "refused"
            lines = [line[6:] async for line in reply.aiter_lines() if line]
        *chunks, last, done = lines
        usage = json.loads(last)["usage"]["completion_tokens"]
        ends = [json.loads(chunk)["choices"][0]["finish_reason"] for chunk in chunks]
        right = usage == tokens and done == "[DONE]" and ends.count("length") == 1
        return "right" if right and len(chunks) <= tokens else f"wrong: {usage} of {tokens}"

    async def _cancelled(self, body: dict[str, Any], tokens: int) -> str:
        """Close a stream after some tokens."""
        asked = {**body, "stream": True}
        async with self._client.stream("POST", "/v1/completions", json=asked) as reply:
            if reply.status_code == 429:
                return "refused"
            lines = reply.aiter_lines()
            for _ in range(self._source.randint(1, 4)):
                await anext(lines, None)
        return "left"

    async def _gone(self, body: dict[str, Any], tokens: int) -> str:
        """Disconnect before the answer."""
        try:
            await self._client.post("/v1/completions", json=body, timeout=self._source.random() / 5)
        except httpx.TimeoutException:
            return "left"
        return "was faster"

    async def _bad(self, body: dict[str, Any], tokens: int) -> str:
        """Ask for what makes no sense, and be told so."""
        fields, expected = self._source.choice(BAD)
        if {"size", "memory_budget"} & fields.keys():
            body = {k: v for k, v in body.items() if k != "model"}
        reply = await self._client.post("/v1/completions", json={**body, **fields})
        right = reply.status_code in (expected, 429)
        return "refused" if right else f"wrong: {reply.status_code} for {list(fields)}"


async def at_rest(url: str) -> dict[str, float]:
    """The gauges of what runs, waits and holds KV, once they are zero or time is up."""
    async with httpx.AsyncClient(base_url=url) as client:
        end = time.monotonic() + IDLE_SECONDS
        while True:
            lines = (await client.get("/metrics")).text.splitlines()
            gauges = {
                name: sum(float(x.split()[-1]) for x in lines if x.startswith(f"{name}{{"))
                for name in IDLE
            }
            if not any(gauges.values()) or time.monotonic() > end:
                return gauges
            await asyncio.sleep(0.2)


@contextmanager
def server(family: Family, options: list[str]) -> Iterator[tuple[str, int]]:
    """A server of the family on a free port, loaded: its URL and its process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "server.cli", "serve", str(family.root), "--port", "0"]
        with log.open("w") as printed:
            process = subprocess.Popen(
                [*command, *options],
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            yield _ready(process, log), process.pid
        finally:
            process.terminate()
            process.wait(60)


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The URL that the server printed, once it takes requests."""
    end = time.monotonic() + START_SECONDS
    while "is ready" not in (printed := log.read_text()):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the server did not start:\n{printed}")
        time.sleep(0.2)
    return next(word for word in printed.split() if word.startswith("http://"))


async def measure(url: str, process: int, family: Family, asked: argparse.Namespace) -> Any:
    """Run the soak with a sample of memory every few seconds."""
    soak, began, samples = Soak(url, family, asked.tokens, asked.seed), time.monotonic(), []
    seconds = asked.minutes * 60
    running = asyncio.create_task(soak.run(seconds, asked.rate))
    while not running.done():
        samples.append(memory_of(process, began))
        await asyncio.wait([running], timeout=max(1.0, seconds / 100))
    await running
    await soak.close()
    rest = await at_rest(url)
    samples.append(memory_of(process, began))
    warm = next(sample for sample in samples if sample.second >= WARM_UP * seconds)
    grown = sum(samples[-1].bytes.values()) - sum(warm.bytes.values())
    return {
        "outcomes": dict(sorted(soak.outcomes.items())),
        "lost_cut_or_doubled": soak.wrong[:20],
        "at_rest": rest,
        "memory": {"warm": asdict(warm), "end": asdict(samples[-1]), "grown_bytes": grown},
        "samples": [[sample.second, sum(sample.bytes.values())] for sample in samples],
    }


def main() -> int:
    """Print the JSON of a soak; status 1 where an answer was lost or something was left behind."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("family", type=Path, help="a family folder or a shipped family")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--seed", type=int, default=0)
    asked, options = parser.parse_known_args()
    family = load_family(family_folder(asked.family))
    with server(family, options) as (url, process):
        result = asyncio.run(measure(url, process, family, asked))
    settings = {"minutes": asked.minutes, "rate": asked.rate, "tokens": asked.tokens}
    record = {"family": family.name, **settings, **result, **provenance(asked.seed)}
    print(json.dumps(record, indent=1))
    return int(bool(result["lost_cut_or_doubled"]) or any(result["at_rest"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
