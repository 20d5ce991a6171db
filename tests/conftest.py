"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A busy machine is not a defect: examples have no deadline.
hypothesis.settings.register_profile("tatara", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tatara")

# Before anything is imported: no hub, no telemetry, no network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tests run side by side; more threads than cores spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """URL of a bucket on a real S3 server process."""
    from s3 import s3_server

    with s3_server() as bucket:
        yield bucket


@pytest.fixture(params=["local", "s3"])
def any_root(request: pytest.FixtureRequest, tmp_path) -> str:
    """An empty artifact root on a local disk, then one on S3."""
    if request.param == "local":
        return str(tmp_path / "root")
    return f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a small tokenizer with the special tokens of chat templates but no template; only to be read."""
    from chat.chat_cases import write_tokenizer

    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The directory of labelled and real data that $TATARA_SAMPLE_DATA names; without it the test is skipped."""
    found = os.environ.get("TATARA_SAMPLE_DATA")
    if not found or not Path(found).is_dir():
        pytest.skip("needs the sample data: set TATARA_SAMPLE_DATA to their directory")
    return Path(found)


_ALONE = ("cluster", "engine", "serve", "jobs", "cli")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what must not share the machine: Ray clusters, vLLM, and processes that are timed or killed."""
    for item in items:
        place = item.path.relative_to(config.rootpath / "tests").parts
        if place[0] in _ALONE or len(place) == 1 or item.get_closest_marker("ray"):
            item.add_marker("alone")
