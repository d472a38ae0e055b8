"""`boomerang`: the offline commands, `serve`, and `sample`."""

import asyncio
import atexit
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn

from boomerang_core.cli import app, family_folder
from boomerang_core.errors import BoomerangError, SettingsError, SizeError
from boomerang_core.family import Family, load_family
from server.app import create_app
from server.lifecycle import DrainingServer, Lifecycle, in_thread, prepare_environment
from server.load.chooser import Chooser, Objective
from server.logs import LIFE, configure_logging, require_tracing, write_logging_config
from server.metrics import Metrics
from server.precision import Precision, served_precision
from server.sample import sample
from server.settings import Settings, read_settings
from server.sizing import Policy

_BACKLOG = 2048


@app.command()
def serve(
    family: Annotated[
        str | None, typer.Argument(help="A family folder, or a shipped family: smollm2-135m.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port: 8000; 0 takes a free one.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, bfloat16, float16 or float32: auto, float32 on a CPU.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus reply, in tokens: 2048.")
    ] = None,
    kv_cache_bytes: Annotated[
        str | None, typer.Option(help="Memory for the KV cache: 256MiB.")
    ] = None,
) -> None:
    """Serve every size of a family over HTTP.  Each option is also BOOMERANG_<NAME>."""
    options: dict[str, Any] = {
        "family": family,
        "host": host,
        "port": port,
        "dtype": dtype,
        "max_model_len": max_model_len,
        "kv_cache_bytes": kv_cache_bytes,
    }
    try:
        settings = read_settings(**options)
        precision = served_precision(settings.dtype)
        loaded = load_family(family_folder(Path(settings.family)))
        served = loaded.served_in(precision.bytes_per_param)
        lifecycle = asyncio.run(_serve(settings, served, precision))
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
    require_tracing(settings)
    policy = _policy(settings, family)
    objective = Objective(settings.first_token_seconds, settings.token_seconds)
    chooser = Chooser.of(family.table, objective, settings.max_num_seqs)
    app, lifecycle = create_app(family, policy, chooser, settings.max_model_len)
    config = uvicorn.Config(
        app,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,  # ours says more
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = DrainingServer(config, lifecycle, settings.linger_seconds)
    listening = _listen(settings)
    address, port = listening.getsockname()[:2]
    _say(settings, f"{family.name} on http://{address}:{port} (loading)")

    async def load() -> None:
        client = await in_thread(
            lambda: _start(settings, family, precision, chooser, app.state.metrics)
        )
        from server.engine.serving import mount

        await mount(app, client, policy, chooser, app.state.metrics)
        app.state.metrics.set_resident(await client.resident_bytes())
        lifecycle.loaded(client)
        _say(settings, f"{family.name} is ready: {len(family.table.offered)} sizes")

    await server.serve_until_stopped(load, [listening])
    return lifecycle


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


def _policy(settings: Settings, family: Family) -> Policy:
    try:
        return Policy.of(family, settings.default_size)
    except SizeError as error:
        raise SettingsError(f"default_size: {error}") from error


def _start(
    settings: Settings, family: Family, precision: Precision, chooser: Chooser, metrics: Metrics
) -> Any:
    """Load the engine; seconds of imports, then the weights.  Blocks."""
    from boomerang_core.checkpoint import teacher_folder

    teacher_dir = teacher_folder(family)  # before vLLM is imported: a lost teacher shows at once
    from server.engine.client import start_engine
    from server.engine.watch import Watch

    return start_engine(
        family,
        teacher_dir,
        Watch(family.table, chooser, metrics),
        dtype=precision.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_memory_bytes=settings.kv_cache_bytes,
        otlp_traces_endpoint=settings.otlp_traces_endpoint,
    )


def _listen(settings: Settings) -> socket.socket:
    """A listening socket; `SettingsError` where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise SettingsError(f"cannot listen on {where}: {error.strerror or error}") from error


def _one_line(error: BaseException) -> str:
    """The first line of an error, with its kind where it is not one of ours."""
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, BoomerangError) else f"{type(error).__name__}: {text}"


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except SystemExit as ended:
        if "vllm" in sys.modules and isinstance(ended.code, int):
            _exit(ended.code)
        raise


def _exit(status: int) -> None:
    """End the process without Python taking the heap apart: seconds, for what the exit frees."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
