"""One engine for all sizes against one plain vLLM process for each size, on the same machine.

    python -m bench.processes FAMILY [--merge] [--sizes 3] [--loads 0.7 1.5] [--pairs 7]
        [--seconds 20] [--kv-mib 192] [--sequences 96] [--compiled] [--out FILE]

Both sides are up at once and are loaded in turn.  The processes serve the exported sizes (low-rank
students merged), share the KV memory and the sequences at the same time that ours has for itself,
and use the same cores; with `--compiled` they compile their models, as plain vLLM does unless told
otherwise.  Load 1 is what the processes answer with 16 clients that wait for each answer.  Arrivals
are Poisson, the same for both sides of a pair, each request of a random size.  Prints JSON, ours
over theirs:

* `throughput`: answered tokens a second, from the first arrival to the last answer;
* `first_token_p95`: of the time from a request's arrival to its first token;
* `memory`: PSS of all processes of a side, after the load.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.burst import Load, ask
from bench.burst_report import Outcome, percentile_95
from bench.pairs import Ratio
from bench.run import add_dtype, add_merge, add_pairs, add_sizes, finish, kind_of, spread
from bench.servers import Server, serving, serving_plain
from boomerang_core.assemble import export
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family

CLIENTS = 16
LENGTHS = {"prompt_tokens": 32, "answer_tokens": 32}
MODEL_LEN = ("--max-model-len", "256")


@dataclass(frozen=True)
class Side:
    """The servers of one side, and where each size is asked for: an address and a model."""

    servers: tuple[Server, ...]
    targets: Mapping[int, tuple[str, str]]

    def pss(self) -> int:
        """Bytes of all its processes; shared pages count once."""
        return sum(server.memory()["pss"] for server in self.servers)


@dataclass(frozen=True)
class Run:
    """What a side made of one run of a load."""

    tokens_per_second: float
    first_token_p95: float
    failed: int


@contextmanager
def one_engine(family: Family, sizes: Sequence[int], options: argparse.Namespace) -> Iterator[Side]:
    """Our server with every size."""
    kv = str(options.kv_mib << 20)
    limits = [*MODEL_LEN, "--dtype", options.dtype, "--kv-cache-bytes", kv]
    limits += ["--merge"] * options.merge
    most = {"BOOMERANG_MAX_NUM_SEQS": str(options.sequences)}
    with serving(family, limits, most) as server:
        names = {size: family.table.model_id(family.rows[size]) for size in sizes}
        yield Side((server,), {size: (server.url, name) for size, name in names.items()})


@contextmanager
def process_each(
    family: Family, sizes: Sequence[int], options: argparse.Namespace
) -> Iterator[Side]:
    """Plain vLLM for each size, with its share of the KV cache and of the sequences."""
    limits = [
        *MODEL_LEN,
        "--dtype",
        options.dtype,
        "--kv-cache-memory-bytes",
        str((options.kv_mib << 20) // len(sizes)),
        "--max-num-seqs",
        str(options.sequences // len(sizes)),
        *(() if options.compiled else ["--enforce-eager"]),
    ]
    with ExitStack() as stack:
        servers = {}
        for size in sizes:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / str(size)
            export(family, size, folder, getattr(torch, options.dtype))
            named = [*limits, "--served-model-name", str(size)]
            servers[size] = stack.enter_context(serving_plain(folder, named))
        yield Side(
            tuple(servers.values()),
            {size: (server.url, str(size)) for size, server in servers.items()},
        )


class Loader:
    """Sends the same requests to either side."""

    def __init__(self, client: httpx.AsyncClient, seconds: float, sizes: Sequence[int]) -> None:
        self._client, self._seconds, self._sizes = client, seconds, sizes

    async def open_loop(self, side: Side, rate: float, seed: int) -> Run:
        """One run: every request leaves when its time has come."""
        load = Load(seconds=self._seconds, seed=seed, **LENGTHS)
        draw, began = random.Random(seed), time.monotonic()

        async def one(number: int, at: float, size: int) -> Outcome:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            return await self._ask(side, load, size, number, began + at)

        asked = [(at, draw.choice(self._sizes)) for at in load.arrivals(rate)]
        outcomes = await asyncio.gather(
            *(one(number, at, size) for number, (at, size) in enumerate(asked))
        )
        return self._run(outcomes, time.monotonic() - began)

    async def closed_loop(self, side: Side) -> float:
        """Requests a second with `CLIENTS` clients."""
        load = Load(seconds=self._seconds, seed=0, **LENGTHS)
        began, done = time.monotonic(), 0

        async def one(client: int) -> None:
            nonlocal done
            draw = random.Random(client)
            while (now := time.monotonic()) - began < self._seconds:
                await self._ask(side, load, draw.choice(self._sizes), draw.randrange(1 << 30), now)
                done += 1

        await asyncio.gather(*(one(client) for client in range(CLIENTS)))
        return done / (time.monotonic() - began)

    async def _ask(self, side: Side, load: Load, size: int, number: int, due: float) -> Outcome:
        url, model = side.targets[size]
        body = {**load.body(number), "model": model}
        return await ask(self._client, f"{url}/v1/completions", body, due)

    def _run(self, outcomes: Sequence[Outcome], seconds: float) -> Run:
        answered = [one for one in outcomes if one.status == httpx.codes.OK]
        latest = percentile_95([one.first_token_seconds for one in answered])
        assert latest is not None, "no request was answered"
        tokens = len(answered) * LENGTHS["answer_tokens"]
        return Run(tokens / seconds, latest, len(outcomes) - len(answered))


async def measure(ours: Side, theirs: Side, options: argparse.Namespace) -> dict[str, Any]:
    """Pairs at every load."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:
        loader = Loader(client, options.seconds, list(ours.targets))
        await loader.closed_loop(ours)  # both are warm before anything counts
        rate = await loader.closed_loop(theirs)
        loads = {
            f"{load:g}": await pairs(loader, ours, theirs, load * rate, options.pairs)
            for load in options.loads
        }
    memory = {"ours": ours.pss(), "theirs": theirs.pss()}
    return {
        "requests_per_second": rate,
        "ours_over_theirs": loads,
        "memory": {**memory, "ratio": round(memory["ours"] / memory["theirs"], 3)},
    }


async def pairs(loader: Loader, ours: Side, theirs: Side, rate: float, count: int) -> Any:
    """Ratios of one load, pair by pair, the sides in turn first."""
    runs: dict[str, list[Run]] = {"ours": [], "theirs": []}
    for seed in range(count):
        order = [("ours", ours), ("theirs", theirs)]
        for name, side in order if seed % 2 else order[::-1]:
            runs[name].append(await loader.open_loop(side, rate, seed))
    columns = {
        name: [[getattr(run, name) for run in runs[side]] for side in ("ours", "theirs")]
        for name in ("tokens_per_second", "first_token_p95")
    }
    return {
        "throughput": asdict(Ratio.of(*columns["tokens_per_second"])),
        "first_token_p95": asdict(Ratio.of(*columns["first_token_p95"])),
        "runs": {name: [asdict(run) for run in side] for name, side in runs.items()},
    }


def run(family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """Start both sides and measure."""
    # Idle threads that spin would take the cores from the other processes' threads.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    sizes = spread(len(family.rows), options.sizes)
    with (
        one_engine(family, sizes, options) as ours,
        process_each(family, sizes, options) as theirs,
    ):
        result = asyncio.run(measure(ours, theirs, options))
    return {
        "family": family.name,
        "kind": kind_of(family, options.merge),
        "sizes": [family.rows[size].id for size in sizes],
        "compiled": options.compiled,
        "kv_bytes": options.kv_mib << 20,
        "sequences": options.sequences,
        **LENGTHS,
        **result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    add_merge(parser)
    add_sizes(parser, 3)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.7, 1.5])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run: default 20")
    parser.add_argument("--kv-mib", type=int, default=192, help="of a side: default 192 MiB")
    parser.add_argument("--sequences", type=int, default=96, help="of a side at once: default 96")
    parser.add_argument("--compiled", action="store_true", help="the processes compile")
    add_pairs(parser)
    add_dtype(parser)
    options = parser.parse_args()
    finish(run(load_family(family_folder(options.family)), options), options)


if __name__ == "__main__":
    main()
