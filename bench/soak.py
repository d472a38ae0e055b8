"""A soak: a real server on loopback at a set load, with clients that behave badly.

    python -m bench.soak FAMILY --minutes 20 --rate 4

What else is given goes to `boomerang serve`.
Requests begin at random times, `--rate` a second on average, whether earlier ones are done or not.
Most are read to their end; the others are cancelled by a disconnect, early or late, or make no
sense.  Prints JSON: the server's memory after warm-up and at the end, what runs, waits and holds
KV-cache blocks once all clients are gone, and how many answers were lost, cut, doubled or wrong.

Every good answer is greedy and asks for an exact number of tokens, so that a lost or doubled token
shows: the usage must say that number, and a stream must bring as many pieces.  One in seven asks
what transformers answered before on the assembled model of that size, and must say the same; the
server must compute in float32 for that, as on a CPU it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.expected import PROMPTS, in_transformers
from bench.servers import Server, serving
from bench.soak_clients import Clients, Known
from boomerang_core.checkpoint import load_tokenizer
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.provenance import provenance

IDLE = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
IDLE_SECONDS = 30
LONGEST = 128  # prompt tokens of what is known
WARM_UP = 0.2  # of the time; memory grows while caches fill


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the server's processes, by name, at a second of the soak."""

    second: float
    bytes: Mapping[str, int]


def known_answers(family: Family) -> Known:
    """What transformers says at every offered size."""
    tokenizer = load_tokenizer(family)
    prompts: list[list[int]] = [tokenizer(text)["input_ids"][:LONGEST] for text in PROMPTS]
    sizes = {row.size: family.table.model_id(row) for row in family.table.offered}
    keys = [(size, place) for size in sizes for place in range(len(prompts))]
    answers = in_transformers(family, keys, prompts)
    return [(sizes[size], prompts[place], answer) for (size, place), answer in answers.items()]


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


async def measure(
    server: Server, family: Family, known: Known, asked: argparse.Namespace
) -> dict[str, Any]:
    """Run the soak with a sample of memory every few seconds."""
    models = [family.table.model_id(row) for row in family.table.offered]
    clients = Clients(server.url, models, known, asked.tokens, asked.seed)
    began, samples = time.monotonic(), []
    seconds = asked.minutes * 60

    def sample() -> None:
        samples.append(Memory(round(time.monotonic() - began, 1), server.resident()))

    running = asyncio.create_task(clients.run(seconds, asked.rate))
    while not running.done():
        sample()
        await asyncio.wait([running], timeout=max(1.0, seconds / 100))
    await running
    await clients.close()
    rest = await at_rest(server.url)
    sample()
    warm = next(sample for sample in samples if sample.second >= WARM_UP * seconds)
    grown = sum(samples[-1].bytes.values()) - sum(warm.bytes.values())
    return {
        "outcomes": dict(sorted(clients.outcomes.items())),
        "lost_or_wrong": clients.wrong[:20],
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
    known = known_answers(family)
    with serving(family, options) as server:
        result = asyncio.run(measure(server, family, known, asked))
    settings = {"minutes": asked.minutes, "rate": asked.rate, "tokens": asked.tokens}
    record = {"family": family.name, **settings, **result, **provenance(asked.seed)}
    print(json.dumps(record, indent=1))
    return int(bool(result["lost_or_wrong"]) or any(result["at_rest"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
