"""One real server for the session, ended as the chart ends it, and a Prometheus that scrapes it."""

import socket
import subprocess
from collections.abc import Iterator

import httpx
import pytest
import yaml

from boomerang_core.family import Family
from tests.api.conftest import family
from tests.api.servers import Running, start
from tests.deploy.charts import SERVE, only, render
from tests.deploy.scraped import ALERTS

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


@pytest.fixture(scope="session")
def prometheus(pod: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes the server every second, as the PodMonitor would label it."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = {
        "targets": [pod.url.removeprefix("http://")],
        "labels": {"namespace": "llm", "pod": "boomerang-7d9c5b6f4-x2k8p"},
    }
    (folder / "alerts.yaml").write_text(yaml.safe_dump(ALERTS))
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(folder / "alerts.yaml")],
                "scrape_configs": [{"job_name": "boomerang", "static_configs": [target]}],
            }
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    with httpx.Client(base_url=f"http://{address}/api/v1", timeout=10) as client:
        yield client
    process.terminate()
    process.wait(30)
