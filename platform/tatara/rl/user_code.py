"""Users' own Python files: part of what a run is, kept with it, and found by every worker wherever it runs."""

from collections.abc import Iterator
from pathlib import Path

from tatara import storage
from tatara.errors import ConfigError
from tatara.rl.environments.config import CustomConfig, EnvironmentConfig
from tatara.rl.grpo import GrpoConfig
from tatara.rl.rewards.kinds import PythonConfig, RewardConfig
from tatara.stage import SourceFile


def sources(config: GrpoConfig) -> list[SourceFile]:
    """The files that rewards and environments name, for the stage's fingerprint: other code is another run.

    Raises:
        ConfigError: A file is not there.
    """
    found = sorted(set(_files(config)))
    return [SourceFile(str(path), path.stat().st_size, storage.sha256_all([str(path)])[0]) for path in found]


def keep(config: GrpoConfig, directory: Path) -> GrpoConfig:
    """Copy the files, and name the copies: workers have another working directory, and maybe another machine.

    Args:
        config: Of the run.
        directory: For the copies; every worker's machine must see it.

    Raises:
        ConfigError: A file is not there.
    """
    copies: dict[Path, Path] = {}
    for number, path in enumerate(dict.fromkeys(_files(config))):
        copies[path] = directory / str(number) / path.name
        copies[path].parent.mkdir(parents=True, exist_ok=True)
        copies[path].write_bytes(path.read_bytes())
    rewards = {name: _reward(reward, copies) for name, reward in config.rewards.items()}
    environments = {name: _environment(each, copies) for name, each in config.environments.items()}
    return config.model_copy(update={"rewards": rewards, "environments": environments})


def _reward(reward: RewardConfig, copies: dict[Path, Path]) -> RewardConfig:
    if not isinstance(reward, PythonConfig):
        return reward
    return reward.model_copy(update={"function": _elsewhere(reward.function, copies)})


def _environment(environment: EnvironmentConfig, copies: dict[Path, Path]) -> EnvironmentConfig:
    if not isinstance(environment, CustomConfig):
        return environment
    return environment.model_copy(update={"target": _elsewhere(environment.target, copies)})


def _files(config: GrpoConfig) -> Iterator[Path]:
    targets = [reward.function for reward in config.rewards.values() if isinstance(reward, PythonConfig)]
    targets += [each.target for each in config.environments.values() if isinstance(each, CustomConfig)]
    for target in targets:
        path = _file(target)
        if path is not None and not path.is_file():
            raise ConfigError(f"{target}: no file at {path}")
        if path is not None:
            yield path


def _file(target: str) -> Path | None:
    """The file that ``path/file.py:name`` names; None for ``module:name``."""
    place = target.rpartition(":")[0]
    return Path(place).resolve() if place.endswith(".py") else None


def _elsewhere(target: str, copies: dict[Path, Path]) -> str:
    path = _file(target)
    return target if path is None else f"{copies[path]}:{target.rpartition(':')[2]}"
