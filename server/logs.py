"""How log lines look, in every process: text, or a JSON object a line.

No line of ours holds a prompt, an answer, a body or a key.
"""

import json
import logging.config
import tempfile
from pathlib import Path
from typing import Any

import typer

from server.settings import Settings

ACCESS = "boomerang.access"
"""Logger of one line per request, at INFO."""
LIFE = "boomerang.life"
"""Logger of what the server does as a whole, at INFO."""

_JSON = {
    "()": "pythonjsonlogger.json.JsonFormatter",
    "fmt": "%(levelname)s %(name)s %(process)d %(message)s",
    "rename_fields": {"levelname": "level", "name": "logger", "process": "pid"},
    "timestamp": True,
}
_TEXT = {"format": "%(levelname)s:%(name)s:%(message)s"}


def logging_config(settings: Settings) -> dict[str, Any]:
    """The `logging.config.dictConfig` of a process.

    Requests are logged at any level: a line each says what ran and why.
    """
    level = settings.log_level.upper()
    is_json = settings.log_format == "json"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": _JSON if is_json else _TEXT},
        "handlers": {"line": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["line"], "level": level},
        "loggers": {
            "vllm": {"handlers": ["line"], "level": level, "propagate": False},
            "boomerang": {"level": "INFO"},
            **{name: {"level": "WARNING"} for name in ("httpx", "httpx2")},
        },
    }


def configure_logging(settings: Settings) -> None:
    """Set up this process."""
    logging.config.dictConfig(logging_config(settings))
    logging.captureWarnings(settings.log_format == "json")


def write_logging_config(settings: Settings) -> Path:
    """The same as a file, for vLLM's processes; the caller deletes it."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="boomerang-logging-", suffix=".json", delete=False, encoding="utf-8"
    ) as file:
        json.dump(logging_config(settings), file)
    return Path(file.name)


def say(settings: Settings, text: str) -> None:
    """For a person on the terminal; a line like every other one where lines are collected."""
    if settings.log_format == "json":
        logging.getLogger(LIFE).info(text)
    else:
        typer.echo(text)
