"""A Ray cluster whose workers reach the S3 server of the tests."""

import pytest

from tatara import cluster


@pytest.fixture(scope="module")
def ray_with_s3(s3_bucket, tmp_path_factory):
    # Workers inherit this environment, and the S3 server's credentials that are in it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TATARA_CACHE", str(tmp_path_factory.mktemp("cache")))
        cluster.connect(num_cpus=2)
        yield
        cluster.disconnect()
