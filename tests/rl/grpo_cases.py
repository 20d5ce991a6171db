"""A small policy that can be asked, and the ``grpo`` stage on it; also run as ``grpo_cases.py ROOT NAME CHANGES``."""

import json
import sys
from pathlib import Path
from typing import Any

from tatara import cluster, config, stage
from tatara.artifact import Artifact, Store
from tatara.rl.grpo import STAGE, GrpoConfig
from tatara.train import pretrain_run
from tatara.train.pretrain import STAGE as PRETRAIN
from tatara.train.pretrain import PretrainConfig
from tatara.train.watch.events import EventReader

GROUPS, SIZE, BATCHES = 4, 4, 6
PROMPTS = 60
"""To train on."""
REWARDS = Path(__file__).with_name("grpo_rewards.py")
CONFIG: dict[str, Any] = {
    "steps": BATCHES,
    "stages": [
        {
            "name": "only",
            "prompts": {"prompts": 1},
            "groups_per_batch": GROUPS,
            "group_size": SIZE,
            "max_response_tokens": 8,
        }
    ],
    "algorithm": {"kl_coefficient": 0.0},
    "rewards": {"low": {"kind": "python", "function": f"{REWARDS}:low_tokens"}},
    "passing": {"at_least": 0.5},
    "sequence_length": 64,
    "micro_batch_size": 2,
    "optimizer": {"learning_rate": 3e-3},
    "evaluation": {"interval": 3, "prompts": 6, "sampling": {"max_response_tokens": 8, "temperature": 0.0}},
    "checkpoint_interval": 2,
}


def write_policy(root: Path, tokens: Artifact) -> Artifact:
    """A checkpoint of one step on rendered conversations; a cluster is connected."""
    chosen = config.load(
        PretrainConfig,
        {},
        {
            "steps": 1, "global_batch_size": 2, "micro_batch_size": 2, "num_workers": 1, "validation_sequences": 0,
            "model.hidden_size": 64, "model.ffn_hidden_size": 96, "model.num_layers": 2,
            "model.num_attention_heads": 2, "model.num_query_groups": 2,
            "model.max_position_embeddings": 64,
        },
    )  # fmt: skip
    with stage.standalone(PRETRAIN, chosen, inputs={"tokens": tokens}, root=root, name="policy") as opened:
        return opened.commit(pretrain_run.run(chosen, opened.stage_run))


def grpo(root: str | Path, name: str, **changes: Any) -> Artifact:
    """Run the stage on ``checkpoint/policy`` and ``conversations/sums`` below ``root``, and commit."""
    store = Store(root)
    chosen = config.load(GrpoConfig, CONFIG, changes)
    inputs = {"checkpoint": store.open("checkpoint/policy"), "prompts": store.open("conversations/sums")}
    with stage.standalone(STAGE, chosen, inputs=inputs, root=root, name=name) as opened:
        return opened.commit(STAGE.resolve(STAGE.run)(chosen, opened.stage_run))


def events(root: Path, name: str) -> list[dict[str, Any]]:
    """What the learner of a run that is under way has told so far."""
    found = next(root.glob(f"work/grpo-{name}-*/events.jsonl"), None)
    return [] if found is None else EventReader(found).read()


if __name__ == "__main__":
    cluster.connect(num_cpus=2)
    grpo(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
    cluster.disconnect()
