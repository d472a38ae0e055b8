"""Clients of a soak: most read to the end, the others leave, or ask for what makes no sense."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

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

Known = Sequence[tuple[str, list[int], list[int]]]
"""A model, a prompt's tokens, and the tokens that it must answer greedily."""
Ask = Callable[[dict[str, Any], int], Awaitable[str]]
"""A body and the tokens that it asks for → what became of it, in a word."""


class Clients:
    """Clients of one server, and what became of their requests."""

    def __init__(
        self, url: str, models: Sequence[str], known: Known, most_tokens: int, seed: int
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._client = httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits())
        self._models = models
        self._known = known
        self._most_tokens = most_tokens
        self._source = random.Random(seed)
        self._kinds: dict[str, tuple[float, Ask]] = {  # how often, and what such a client does
            "whole": (0.35, self._whole),
            "known": (0.15, self._known_answer),
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
            "model": self._source.choice(self._models),
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

    async def _known_answer(self, body: dict[str, Any], tokens: int) -> str:
        """Ask what is known, some of it from the prefix cache, and read it in one piece."""
        model, prompt, answer = self._source.choice(self._known)
        asked = {"model": model, "prompt": prompt, "max_tokens": len(answer)}
        reply = await self._client.post(
            "/v1/completions", json={**body, **asked, "return_token_ids": True}
        )
        if reply.status_code == 429:
            return "refused"
        (choice,) = reply.json()["choices"]
        right = choice["token_ids"] == answer
        return "right" if right else f"wrong: {model} says {choice['token_ids']}, not {answer}"

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
