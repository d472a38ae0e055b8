"""From settings to a server that listens: its logs, its memory, its keys, its app."""

import atexit
import logging

from boomerang_core.family import Family
from boomerang_core.precision import Precision, built_for_cpu
from server.app import create_app
from server.engine_start import EngineStart
from server.guard.middleware import Guarding
from server.load.chooser import Chooser
from server.load.prediction import Latency
from server.logs import configure_logging, say, write_logging_config
from server.memory.budget import memory_budget
from server.memory.cgroup import memory_left
from server.memory.fit import kv_tokens, require_kv_cache, with_kv_cache
from server.memory.residency import Residency
from server.process.draining_server import DrainingServer
from server.process.environment import break_graphs_at_attention, prepare_environment
from server.process.lifecycle import Lifecycle
from server.process.listening import http_config, listen, url_of
from server.process.watchdog import Watchdog
from server.settings import Settings
from server.tracing import prepare_tracing

logger = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


async def serve_family(settings: Settings, family: Family, precision: Precision) -> Lifecycle:
    """Serve until stopped; the lifecycle tells how it ended.

    `family`: with the footprints of the served format.  Raises `SettingsError` where the settings
    do not go together, or with the machine.
    """
    _set_up_logging(settings)
    prepare_tracing(settings)
    settings = with_kv_cache(settings, family, budget := memory_budget(settings))
    residency = _residency(settings, family, budget)
    require_kv_cache(family, settings)
    guarding = Guarding.of(settings)
    _warn_if_open(settings)
    chooser = _chooser(settings, family)
    app, lifecycle = create_app(settings, family, residency, chooser, guarding)
    config = http_config(app, settings)
    watchdog = Watchdog(settings.hang_seconds)
    server = DrainingServer(config, lifecycle, settings.linger_seconds, watchdog)
    listening = listen(settings)
    say(settings, f"{family.name} on {url_of(listening, config)} (loading)")
    start = EngineStart(
        settings, family, precision, residency, chooser, guarding.limits, app, lifecycle
    )
    await server.serve_until_stopped(start.run, [listening])
    return lifecycle


def _residency(settings: Settings, family: Family, budget: int | None) -> Residency:
    room = memory_left if built_for_cpu() else None
    return Residency(
        family, settings.kv_bytes, budget, settings.default_size, room, settings.served_names
    )


def _chooser(settings: Settings, family: Family) -> Chooser:
    objective = Latency(settings.first_token_seconds, settings.token_seconds)
    tokens = kv_tokens(family, settings)
    return Chooser.of(family.table, objective, settings.max_num_seqs, tokens)


def _warn_if_open(settings: Settings) -> None:
    """Say so where other machines may reach a server that asks for no key."""
    if settings.api_keys_file is None and settings.host not in _LOOPBACK:
        logger.warning("no api_keys_file: whoever reaches %s may use this server", settings.host)


def _set_up_logging(settings: Settings) -> None:
    """In JSON, vLLM's processes read the same set-up from a file, gone when this process ends."""
    configure_logging(settings)
    file = None
    if settings.log_format == "json":
        file = write_logging_config(settings)
        atexit.register(file.unlink, missing_ok=True)
    prepare_environment(settings, file)
    break_graphs_at_attention()
