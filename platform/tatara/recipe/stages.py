"""The stages there are: name to where its description is, in the order of the way from raw text to an answer."""

import importlib

from tatara.config import nearest
from tatara.errors import ConfigError
from tatara.stage import Stage

STAGES = {
    "curate": "tatara.data.pipeline.config",
    "tokenize": "tatara.data.tokenize",
    "import": "tatara.train.convert.import_config",
    "pretrain": "tatara.train.pretrain",
    "dialogues": "tatara.posttrain.dialogues",
    "render": "tatara.posttrain.render",
    "sft": "tatara.posttrain.sft",
    "grpo": "tatara.rl.grpo",
    "upcycle": "tatara.train.convert.upcycle",
    "average": "tatara.train.convert.average",
    "scaling": "tatara.scaling.stage",
    "export": "tatara.train.convert.export",
    "serve": "tatara.serve.config",
}
"""Stage name to the module whose ``STAGE`` describes it; none of them imports anything heavy."""


def find_stage(name: str) -> Stage:
    """The stage of a name.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    if name not in STAGES:
        raise ConfigError(f"unknown stage '{name}'; {nearest(name, STAGES)}")
    stage: Stage = importlib.import_module(STAGES[name]).STAGE
    return stage
