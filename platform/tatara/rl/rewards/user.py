"""A reward that is the user's own function."""

from collections.abc import Callable
from typing import Any

from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.kinds import PythonConfig
from tatara.rl.rewards.named import check_call, load_target


def build(config: PythonConfig) -> Callable[[Completion], Any]:
    """The reward of a configuration.

    Raises:
        ConfigError: There is no such function, it is not one, or it does not take one completion.
    """
    function = load_target(config.function)
    check_call(function, config.function, ("completion",), config.arguments)
    return lambda completion: function(completion, **config.arguments)
