"""Runs the pretraining stage, also in a process of its own: ``python pretrain_driver.py ROOT KEY=VALUE ...``."""

import sys

import tatara.cluster
from tatara import config, stage
from tatara.artifact import Artifact, Store
from tatara.train.pretrain import STAGE, PretrainConfig


def pretrain(root: str, **overrides: object) -> Artifact:
    """Run the stage on ``tokens/t`` below ``root`` on the cluster that is connected, and commit."""
    chosen = config.load(PretrainConfig, {}, overrides)
    inputs = {"tokens": Store(root).open("tokens/t")}
    with stage.standalone(STAGE, chosen, inputs=inputs, root=root, name="t") as opened:
        return opened.commit(STAGE.resolve(STAGE.run)(chosen, opened.stage_run))


if __name__ == "__main__":
    tatara.cluster.connect(num_cpus=2)
    pretrain(sys.argv[1], **dict(argument.split("=", 1) for argument in sys.argv[2:]))
    tatara.cluster.disconnect()
