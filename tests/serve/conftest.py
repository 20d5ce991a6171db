import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.tiny_llama import write_tiny_llama
from tatara import cluster


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A private cluster of two logical CPUs."""
    cluster.connect(num_cpus=2)
    yield
    cluster.disconnect()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
