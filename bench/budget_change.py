"""Lower and raise the memory budget of a server under load; watch its memory and its tokens.

    python -m bench.budget_change FAMILY [--rounds 3] [--clients 4] [--dtype float32]

Starts a server with every size held, asks each size once for its greedy answer, and then lets
clients ask for every size, over and over, while the budget goes to the smallest size's need and
back.  Prints JSON: after each change the predicted bytes, the engine's own count, and the memory
of all the server's processes (RSS and PSS), with the seconds the change took; then how many
answers were right, wrong, or refused.  Exits with 1 where one was wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.servers import Server, serving
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.provenance import provenance

PATH = "/admin/memory-budget"
PROMPT = "Once upon a time, in a small village,"
TOKENS = 24
SETTLE_SECONDS = 1.0


@contextmanager
def running(family: Family, dtype: str) -> Iterator[tuple[httpx.Client, Server]]:
    """A server of its own, ready, and a client with the operator's key."""
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(f"{key}\n", encoding="ascii")
        options = ["--dtype", dtype, "--kv-cache-bytes", "128MiB"]
        with serving(family, options, {"BOOMERANG_ADMIN_KEYS_FILE": str(keys)}) as server:
            headers = {"authorization": f"Bearer {key}"}
            with httpx.Client(base_url=server.url, headers=headers, timeout=300) as client:
                yield client, server


def ask(client: httpx.Client, model: str) -> str | None:
    """The greedy answer of a size; None where it is not available."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    reply = client.post("/v1/completions", json={**body, "ignore_eos": True})
    if reply.status_code == 404 and "is not available" in reply.text:
        return None
    return str(reply.raise_for_status().json()["choices"][0]["text"])


class Load:
    """Clients that ask for every size in turn, and count what came back."""

    def __init__(self, client: httpx.Client, right: dict[str, str], clients: int) -> None:
        self.counts: Counter[str] = Counter()
        self._client, self._right = client, right
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def _run(self, first: int) -> None:
        for model in itertools.islice(itertools.cycle(self._right), first, None):
            if self._stop.is_set():
                return
            try:
                got = ask(self._client, model)
            except httpx.HTTPError:
                self.counts["failed"] += 1
                continue
            kind = "refused" if got is None else "right" if got == self._right[model] else "wrong"
            self.counts[kind] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def change(client: httpx.Client, server: Server, budget: int | None) -> dict[str, Any]:
    """Follow a budget under load; what is held and used afterwards."""
    began = time.monotonic()
    state = client.put(PATH, json={"memory_budget": budget}).raise_for_status().json()
    seconds = time.monotonic() - began
    time.sleep(SETTLE_SECONDS)
    text = client.get("/metrics").text
    held = next(line for line in text.splitlines() if line.startswith("boomerang_resident_bytes"))
    return {
        "budget": budget,
        "sizes": len(state["sizes"]),
        "predicted_bytes": state["weight_bytes"],
        "resident_bytes": int(float(held.split()[-1])),
        "seconds": round(seconds, 2),
        **server.memory(),
    }


def measure(family: str, rounds: int, clients: int, dtype: str) -> dict[str, Any]:
    """The whole experiment."""
    loaded = load_family(family_folder(Path(family)))
    models = [loaded.table.model_id(row) for row in loaded.table.offered]
    with running(loaded, dtype) as (client, server):
        right = {model: ask(client, model) or "" for model in models}
        steps = [change(client, server, None)]
        refusal = client.put(PATH, json={"memory_budget": 1}).json()["error"]["message"]
        needed = re.search(r"needs ([0-9,]+) bytes", refusal)
        assert needed, refusal
        smallest = int(needed[1].replace(",", ""))
        with Load(client, right, clients) as load:
            for _ in range(rounds):
                steps += [change(client, server, smallest), change(client, server, None)]
        again = sum(ask(client, model) == right[model] for model in models)
    counts = {kind: load.counts[kind] for kind in ("right", "refused", "wrong", "failed")}
    return {"steps": steps, "answers": counts, "right_at_the_end": f"{again} of {len(models)}"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    result = measure(options.family, options.rounds, options.clients, options.dtype)
    print(json.dumps({"provenance": provenance(0), **result}, indent=1))
    if result["answers"]["wrong"] or result["answers"]["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
