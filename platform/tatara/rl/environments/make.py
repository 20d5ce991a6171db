"""From the configuration of an environment to the object."""

from collections.abc import Mapping, Sequence

from tatara.errors import ConfigError, TataraError, TrainingError
from tatara.rl.environments.config import CustomConfig, EnvironmentConfig, ToolsConfig
from tatara.rl.environments.environment import Environment, Reply
from tatara.rl.environments.tools import Tools
from tatara.rl.record import Prompt
from tatara.rl.rewards.named import check_call, load_target


def make_environments(environments: Mapping[str, EnvironmentConfig]) -> dict[str, Environment]:
    """Make all environments of a run; for a start-up check, too.

    Raises:
        ConfigError: One cannot be made; the line names it.
        EngineError: ``python`` is wanted and this machine cannot isolate programs.
    """
    return {name: make_environment(name, config) for name, config in environments.items()}


def make_environment(name: str, config: EnvironmentConfig) -> Environment:
    """Make an environment.

    Raises:
        ConfigError: It cannot be made; the line names it.
        EngineError: ``python`` is wanted and this machine cannot isolate programs.
    """
    if isinstance(config, ToolsConfig):
        return Tools(config)
    assert isinstance(config, CustomConfig)
    try:
        return _Custom(name, config)
    except ConfigError as error:
        raise ConfigError(f"environment {name}: {error}") from error


class _Custom:
    """A user's environment, with its mistakes as one line."""

    def __init__(self, name: str, config: CustomConfig) -> None:
        kind = load_target(config.target)
        check_call(kind, config.target, (), config.arguments)
        try:
            self._environment = kind(**config.arguments)
        # A user's class may raise anything at all.
        except Exception as error:
            raise ConfigError(f"{config.target} cannot be made: {_said(error)}") from error
        reply = getattr(self._environment, "reply", None)
        if reply is None:
            raise ConfigError(f"{config.target} has no method reply(prompt, turns_so_far, last_turn)")
        check_call(reply, f"{config.target}.reply", ("prompt", "turns_so_far", "last_turn"), {})
        self._name, self._max_turns = name, config.max_turns

    def reply(self, prompt: Prompt, turns_so_far: Sequence[str], last_turn: str) -> Reply | None:
        """Ask the user's environment.

        Raises:
            TrainingError: It raised, or answered what is no reply; the line names it and the prompt.
        """
        try:
            answer = self._environment.reply(prompt, turns_so_far, last_turn)
        except TataraError:
            raise
        # A user's class may raise anything at all.
        except Exception as error:
            raise self._wrong(prompt, _said(error)) from error
        if answer is None:
            return None
        if not isinstance(answer, Reply):
            raise self._wrong(prompt, f"reply returned a {type(answer).__name__}, not a Reply or None")
        if answer.finish is None:
            if not answer.messages:
                raise self._wrong(prompt, "a Reply needs messages, or a finish")
            if not all(isinstance(each, dict) and {"role", "content"} <= set(each) for each in answer.messages):
                raise self._wrong(prompt, "each message of a Reply needs role and content")
            if any(each["role"] == "assistant" for each in answer.messages):
                raise self._wrong(prompt, "a message of a Reply cannot be the assistant's")
            if len(turns_so_far) + 1 >= self._max_turns:
                return Reply(finish="turns")
        return answer

    def _wrong(self, prompt: Prompt, what: str) -> TrainingError:
        return TrainingError(f"environment '{self._name}' failed on prompt '{prompt.id}': {what}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
