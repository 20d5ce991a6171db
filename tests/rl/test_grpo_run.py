"""The ``grpo`` stage on a real cluster: real engines, real trainer, and what kills cannot change."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import tatara.cluster
from posttrain.posttrain_cases import arithmetic, render, tokenizer_of
from rl.grpo_cases import BATCHES, GROUPS, grpo, lineage, write_policy
from tatara.artifact import Artifact

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def root(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a policy and prompts; the cluster is connected."""
    root = tmp_path_factory.mktemp("grpo")
    tokens = render(root, arithmetic(root), tokenizer_of(root, tokenizer))
    tatara.cluster.connect(num_cpus=2)
    write_policy(root, tokens)
    yield root
    tatara.cluster.disconnect()


@pytest.fixture(scope="module")
def learned(root: Path) -> Artifact:
    return grpo(root, "plain", staleness=0)


def test_every_version_that_was_asked_for_is_evaluated(learned: Artifact) -> None:
    evaluations = json.loads((learned.local("rl") / "evaluations.json").read_text())
    assert sorted(map(int, evaluations)) == [0, 3, BATCHES]
    assert all(0 <= found["pass@1"] <= 1 and found["groups"] == 6 for found in evaluations.values())
    assert learned.metrics["batches"] == BATCHES
    assert learned.metrics["worker_deaths"] == 0


def test_lineage_says_which_prompts_made_each_batch(learned: Artifact) -> None:
    positions = [position for batch in lineage(learned) for position in batch["positions"]]
    assert sorted(positions) == list(range(BATCHES * GROUPS))
