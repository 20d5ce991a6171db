"""Which rewards are functions of one completion, and what makes them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tatara.errors import ConfigError
from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.kinds import RewardConfig

Function = Callable[[Completion], Any]

FUNCTIONS = {
    "math": "tatara.rl.rewards.mathematics:build",
    "exact": "tatara.rl.rewards.text:build_exact",
    "regex": "tatara.rl.rewards.text:build_regex",
    "format": "tatara.rl.rewards.text:build_format",
    "length": "tatara.rl.rewards.text:build_length",
    "json": "tatara.rl.rewards.structured:build",
    "python": "tatara.rl.rewards.user:build",
}
WRONG_WHEN_STUCK = ("math",)
"""Kinds whose value is 0, not a failure, when time runs out: the response wrote what cannot be worked out."""


def build_functions(rewards: Mapping[str, RewardConfig]) -> dict[str, Function]:
    """The functions of those rewards that are functions.

    Raises:
        ConfigError: One cannot be made; the line names the reward.
        MissingExtraError: A package that it needs is not installed.
    """
    built: dict[str, Function] = {}
    for name, config in rewards.items():
        if config.kind in FUNCTIONS:
            module, _, attribute = FUNCTIONS[config.kind].partition(":")
            try:
                built[name] = getattr(importlib.import_module(module), attribute)(config)
            except ConfigError as error:
                raise ConfigError(f"reward {name}: {error}") from error
    return built
