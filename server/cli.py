"""`boomerang`: the offline commands, `serve`, and `sample`."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from uvicorn.loops.auto import auto_loop_factory

from boomerang_core.cli import app, family_folder
from boomerang_core.errors import BoomerangError
from boomerang_core.family import load_family
from boomerang_core.precision import served_precision
from server.process.loader_thread import still_loading
from server.process.teardown import exit_now
from server.sample import sample
from server.serve_options import takes_settings
from server.settings import read_settings
from server.startup import serve_family


@app.command()
@takes_settings
def serve(**options: Any) -> None:
    """Serve every size of a family over HTTP.  Each option is also BOOMERANG_<NAME>."""
    try:
        settings = read_settings(**options)
        precision = served_precision(settings.dtype)
        loaded = load_family(family_folder(Path(settings.family)))
        served = loaded.served_in(precision.bytes_per_param)
        served = served.merged_when_read() if settings.merge else served
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:  # uvloop, where it is
            lifecycle = runner.run(serve_family(settings, served, precision))
    except BoomerangError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if lifecycle.error is not None:
        typer.echo(f"error: {_one_line(lifecycle.error)}", err=True)
        raise typer.Exit(1)


app.command()(sample)


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
