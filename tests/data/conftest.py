"""What the data tests share."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def ray_cluster(s3_bucket: str) -> Iterator[None]:
    """A Ray cluster of two logical CPUs for one module; it can reach the S3 server."""
    import ray

    temp = tempfile.mkdtemp(prefix="dr-", dir="/tmp")
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([os.path.join(here, "..", "..", "platform"), os.path.join(here, "..")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
        _temp_dir=temp,
    )
    yield
    ray.shutdown()
    shutil.rmtree(temp, ignore_errors=True)
