"""One real server for the session, ended as the chart ends it; the API tests' tiny family."""

from collections.abc import Iterator

import pytest

from boomerang_core.family import Family
from tests.api.conftest import family
from tests.api.servers import Running, start
from tests.deploy.charts import SERVE, only, render

__all__ = ["family"]


@pytest.fixture(scope="session")
def pod(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A loaded server with the chart's own times."""
    settings = only(render(SERVE, {}), "ConfigMap")["data"]
    times = ("BOOMERANG_LINGER_SECONDS", "BOOMERANG_DRAIN_SECONDS")
    running = start(
        family, tmp_path_factory.mktemp("log") / "log", **{name: settings[name] for name in times}
    )
    running.wait_until_ready()
    yield running
    running.process.terminate()
    running.assert_ended_cleanly()
