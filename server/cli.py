"""`boomerang`: the offline commands, `serve`, and `sample`."""

import asyncio
import atexit
import gc
import logging
import platform
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from uvicorn.loops.auto import auto_loop_factory

from boomerang_core.cli import app, family_folder
from boomerang_core.errors import BoomerangError
from boomerang_core.family import Family, load_family
from boomerang_core.precision import (
    Precision,
    built_for_cpu,
    precision_advice,
    served_precision,
)
from server.app import create_app
from server.guard.middleware import Guarding
from server.load.chooser import Chooser
from server.load.prediction import Latency
from server.logs import LIFE, configure_logging, write_logging_config
from server.memory.cgroup import default_budget, memory_left, memory_limit
from server.memory.device import device_budget, device_memory, device_share
from server.memory.fit import (
    kv_tokens,
    require_context,
    require_kv_cache,
    require_memory,
    with_kv_cache,
)
from server.memory.residency import Residency
from server.metrics import Metrics
from server.process.draining_server import DrainingServer
from server.process.environment import prepare_environment
from server.process.hang import Stillness
from server.process.lifecycle import Lifecycle
from server.process.listening import http_config, listen, url_of
from server.process.loading import in_thread, still_loading
from server.process.teardown import exit_now
from server.sample import sample
from server.serve_options import takes_settings
from server.settings import Settings, read_settings
from server.tracing import prepare_tracing

logger = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
@takes_settings
def serve(**options: Any) -> None:
    """Serve every size of a family over HTTP.  Each option is also BOOMERANG_<NAME>."""
    try:
        settings = read_settings(**options)
        precision = served_precision(settings.dtype)
        loaded = load_family(family_folder(Path(settings.family)))
        served = loaded.served_in(precision.bytes_per_param)
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:  # uvloop, where it is
            lifecycle = runner.run(_serve(settings, served, precision))
    except BoomerangError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if lifecycle.error is not None:
        typer.echo(f"error: {_one_line(lifecycle.error)}", err=True)
        raise typer.Exit(1)


app.command()(sample)


async def _serve(settings: Settings, family: Family, precision: Precision) -> Lifecycle:
    """Serve until stopped; the lifecycle tells how it ended."""
    _set_up_logging(settings)
    prepare_tracing(settings)
    settings = with_kv_cache(settings, family, budget := _budget(settings))
    room = memory_left if built_for_cpu() else None
    residency = Residency(
        family, settings.kv_bytes, budget, settings.default_size, room, settings.served_names
    )
    require_kv_cache(family, settings)
    guarding = Guarding.of(settings)
    _warn_if_open(settings)
    objective = Latency(settings.first_token_seconds, settings.token_seconds)
    tokens, requests = kv_tokens(family, settings), settings.max_num_seqs
    chooser = Chooser.of(family.table, objective, requests, tokens)
    app, lifecycle = create_app(
        family,
        settings.max_model_len,
        residency,
        chooser,
        guarding,
        settings.cors_origins,
        admin=settings.admin_keys_file is not None,
        page=settings.page,
        send_timeout_seconds=settings.send_timeout_seconds,
    )
    config = http_config(app, settings)
    stillness = Stillness(settings.hang_seconds)
    server = DrainingServer(config, lifecycle, settings.linger_seconds, stillness)
    listening = listen(settings)
    _say(settings, f"{family.name} on {url_of(listening, config)} (loading)")
    metrics: Metrics = app.state.metrics

    async def load() -> None:
        client = await in_thread(
            lambda: _start(settings, family, precision, residency, (chooser, metrics))
        )
        from server.engine.serving import mount

        await mount(
            app, client, residency, chooser, metrics, guarding.limits, settings.vllm_options
        )
        metrics.set_resident(await client.resident_bytes())
        gc.collect()
        gc.freeze()  # what is there now stays: no collection need walk through it while serving
        lifecycle.loaded(client)
        _advise(settings)
        compiled = f", compiled in {await client.compile_seconds():.0f} s" * settings.compile
        _say(settings, f"{family.name} is ready: {_count_sizes(residency)}{compiled}")
        await client.log_statistics()  # until the server ends

    await server.serve_until_stopped(load, [listening])
    return lifecycle


def _budget(settings: Settings) -> int | None:
    """The memory budget: as told, else what the GPUs have or the container's limit leaves."""
    if settings.memory_budget is not None:
        return settings.memory_budget
    if built_for_cpu():
        return default_budget(memory_limit())
    return device_budget(device_memory(settings.tensor_parallel_size))


def _count_sizes(residency: Residency) -> str:
    """`14 sizes`, or how many of them the memory budget leaves."""
    table = residency.policy.table
    total, offered = sum(row.offered for row in table.rows), len(table.offered)
    return f"{total} sizes" if offered == total else f"{offered} of {total} sizes, by its budget"


def _warn_if_open(settings: Settings) -> None:
    """Say so where other machines may reach a server that asks for no key."""
    if settings.api_keys_file is None and settings.host not in _LOOPBACK:
        logger.warning("no api_keys_file: whoever reaches %s may use this server", settings.host)


def _advise(settings: Settings) -> None:
    """Say so where this CPU would be much faster in another number format."""
    import torch

    from boomerang_core.devices import multiplies_bfloat16

    if built_for_cpu() and platform.machine() == "x86_64":  # others' instructions are not known
        advice = precision_advice(settings.dtype, multiplies_bfloat16(torch.device("cpu")))
        if advice is not None:
            _say(settings, advice)


def _set_up_logging(settings: Settings) -> None:
    """In JSON, vLLM's processes read the same set-up from a file, gone when this process ends."""
    configure_logging(settings)
    file = None
    if settings.log_format == "json":
        file = write_logging_config(settings)
        atexit.register(file.unlink, missing_ok=True)
    prepare_environment(settings, file)


def _say(settings: Settings, text: str) -> None:
    """For a person on the terminal; a line like every other one where lines are collected."""
    if settings.log_format == "json":
        logging.getLogger(LIFE).info(text)
    else:
        typer.echo(text)


def _start(
    settings: Settings,
    family: Family,
    precision: Precision,
    residency: Residency,
    watched: tuple[Chooser, Metrics],
) -> Any:
    """Load the engine; seconds of imports, then the weights.  Blocks."""
    from boomerang_core.checkpoint import check_weights, load_config, teacher_folder

    teacher_dir = teacher_folder(family)  # before vLLM is imported: a lost teacher shows at once
    check_weights(teacher_dir)
    if built_for_cpu():
        require_memory(residency.plan, settings, memory_left())
    require_context(load_config(teacher_dir), settings)
    share = _device_share(settings, residency)
    from server.engine.client import start_engine
    from server.engine.watch import Watch

    return start_engine(
        family,
        teacher_dir,
        residency,
        Watch(family.table, *watched),
        dtype=precision.dtype,
        compiled=settings.compile,
        graphs=settings.cuda_graphs,
        attention_backend=settings.attention_backend,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_memory_bytes=settings.kv_bytes // settings.tensor_parallel_size,  # of each
        tensor_parallel_size=settings.tensor_parallel_size,
        otlp_traces_endpoint=settings.otlp_traces_endpoint,
        options=settings.vllm_options,
        **share,
    )


def _device_share(settings: Settings, residency: Residency) -> dict[str, float]:
    """How much of each GPU vLLM must find free; on a CPU it looks at the KV cache alone."""
    if built_for_cpu():
        return {}
    memory = device_memory(settings.tensor_parallel_size)
    return {"gpu_memory_utilization": device_share(residency.plan, memory)}


def _one_line(error: BaseException) -> str:
    """The first line of an error, with its kind where it is not one of ours.

    Of pydantic's, which vLLM raises, the first line says only how many there are.
    """
    found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    text = next(iter(found.splitlines()), "")
    return text if isinstance(error, BoomerangError) else f"{type(error).__name__}: {text}"


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except SystemExit as ended:
        if ("vllm" in sys.modules or still_loading()) and isinstance(ended.code, int):
            exit_now(ended.code)
        raise


if __name__ == "__main__":
    main()
