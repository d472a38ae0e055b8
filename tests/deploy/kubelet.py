"""The kubelet's part in the end of a pod, and the endpoint that clients see meanwhile."""

import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field

import httpx

from tests.api.servers import Running
from tests.deploy.charts import Object


@dataclass(frozen=True)
class Ending:
    """What a rendered Deployment says about the end of its pods, in seconds."""

    pre_stop: float
    grace: float
    probe_period: float
    probe_failures: int

    @classmethod
    def of(cls, spec: Object) -> "Ending":
        server = spec["containers"][0]
        probe = server["readinessProbe"]
        return cls(
            pre_stop=server["lifecycle"]["preStop"]["sleep"]["seconds"],
            grace=float(spec["terminationGracePeriodSeconds"]),
            probe_period=probe["periodSeconds"],
            probe_failures=probe["failureThreshold"],
        )


@dataclass
class Endpoint:
    """Whether the balancer still sends requests, judged by the readiness probe alone.

    The worst case: a real one also hears of the deletion itself, before SIGTERM.
    """

    url: str
    ending: Ending
    gone: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Probe until the threshold of failures is reached."""
        failures = 0
        with httpx.Client(base_url=self.url, timeout=2) as probe:
            while failures < self.ending.probe_failures:
                time.sleep(self.ending.probe_period)
                try:
                    ready = probe.get("/ready").status_code == 200
                except httpx.HTTPError:
                    ready = False
                failures = 0 if ready else failures + 1
        self.gone.set()


def end(running: Running, ending: Ending) -> tuple[int, float]:
    """preStop, SIGTERM, and SIGKILL once the grace is over: (exit status, seconds it took)."""
    began = time.monotonic()
    time.sleep(ending.pre_stop)
    running.process.send_signal(signal.SIGTERM)
    try:
        status = running.process.wait(ending.grace - ending.pre_stop)
    except subprocess.TimeoutExpired:
        running.process.kill()
        status = running.process.wait()
    return status, time.monotonic() - began
