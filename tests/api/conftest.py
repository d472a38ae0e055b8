"""Real servers for the session: the one that is asked, and another with other settings."""

import json
from collections.abc import Iterator

import httpx
import pytest

from boomerang_core.family import Family
from boomerang_core.sizes import Quality
from tests.api.servers import Running, end_what_runs, start

ADMIN_KEY = "the-key-of-the-operator"
PROMPT_TOKENS = 200
"""The longest prompt that the session's server takes; its model has room for 256 tokens."""


OPTIONS = {"tool_call_parser": "hermes", "enable_prompt_tokens_details": True, "max_logprobs": 3}
"""vLLM's own options of the other server."""


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:
    """The first fixture of the session, so that it ends last."""
    yield
    end_what_runs()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny random low-rank family whose tokenizer knows bytes, with a chat template."""
    from boomerang_core.route import StudentKind
    from tests.api.tokenizer import byte_tokenizer
    from tests.engine.families import make_family

    folder = tmp_path_factory.mktemp("api")
    # With vLLM's default block size its CPU attention lacks a kernel for narrow heads: here 64.
    quality = {size: Quality(kl, 0.7, 30.0, 1000) for size, kl in enumerate((0.6, 0.4, 0.2, 0.0))}
    tiny = make_family(folder, StudentKind.LOWRANK, False, True, 128, quality)
    byte_tokenizer().save_pretrained(tiny.teacher_dir)
    return tiny.family


@pytest.fixture(scope="session")
def loading(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server, as soon as it listens."""
    folder = tmp_path_factory.mktemp("log")
    keys = folder / "admin-keys"
    keys.write_text(f"{ADMIN_KEY}\n")
    settings = {
        "BOOMERANG_LINGER_SECONDS": "2",
        "BOOMERANG_ADMIN_KEYS_FILE": str(keys),
        "BOOMERANG_MAX_PROMPT_TOKENS": str(PROMPT_TOKENS),
    }
    running = start(family, folder / "log", **settings)
    yield running
    running.process.terminate()
    running.assert_ended_cleanly()


@pytest.fixture(scope="session")
def server(loading: Running) -> Running:
    """The server, loaded."""
    loading.wait_until_ready()
    return loading


@pytest.fixture(scope="session")
def other(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another server, as soon as it listens: JSON logs, `auto` by default, no page, tools."""
    settings = {
        "BOOMERANG_LOG_FORMAT": "json",
        "BOOMERANG_LOG_LEVEL": "info",
        "BOOMERANG_DEFAULT_SIZE": "auto",
        "BOOMERANG_PAGE": "false",
        "BOOMERANG_SERVED_NAMES": "gpt-4o,org/tiny",
        "BOOMERANG_VLLM_OPTIONS": json.dumps(OPTIONS),
    }
    running = start(family, tmp_path_factory.mktemp("other") / "log", **settings)
    yield running
    running.process.terminate()
    running.assert_ended_cleanly()


@pytest.fixture(scope="session")
def http(server: Running) -> Iterator[httpx.Client]:
    """A client of the loaded server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the server while it loads comes before what waits for it."""
    items.sort(key=lambda item: "while_loading_it" not in item.name)
