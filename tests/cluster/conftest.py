"""A real head for the tests of one module."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_head import RayHead, ray_head
from tatara import cluster


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as running:
        yield running


@pytest.fixture
def disconnected() -> Iterator[None]:
    """Leave no connection behind, whatever the test does."""
    yield
    cluster.disconnect()


@pytest.fixture
def owner_script(tmp_path: Path) -> list[str]:
    """A program that owns a private cluster with an actor that started a process of its own, and sleeps."""
    script = tmp_path / "owner.py"
    script.write_text(
        """
import subprocess, time
import ray
from tatara import cluster

cluster.connect()

@ray.remote(num_cpus=0.1)
class Engine:
    def start(self):
        # As hard to find as it gets: another session, no open file of Ray's.
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(["sleep", "600"], start_new_session=True, **quiet)
        return self.process.pid

engine = Engine.remote()
print(ray.get(engine.start.remote()), flush=True)
time.sleep(600)
"""
    )
    return [sys.executable, str(script)]
