"""What the data tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tatara import cluster


@pytest.fixture(scope="module")
def ray_cluster(s3_bucket: str) -> Iterator[None]:
    """A private cluster of two logical CPUs for one module; it can reach the S3 server and import the tests."""
    with pytest.MonkeyPatch.context() as patch:
        tests = str(Path(__file__).resolve().parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])]))
        cluster.connect(num_cpus=2)
        yield
        cluster.disconnect()
