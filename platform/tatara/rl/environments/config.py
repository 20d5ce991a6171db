"""What is configured of environments: a mapping of names to tools or to a user's class."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from tatara.config import Config
from tatara.rl.rewards.named import read_named

EXAMPLE = "{tools: {kind: calculator}}"
ToolName = Literal["calculator", "python"]


class EnvironmentConfig(Config):
    """What all environments have."""

    kind: str
    """Which environment this is."""
    max_turns: int = Field(default=4, ge=1)
    """Turns of the model at most; one that calls a tool in its last turn gets no answer any more."""


class ToolsConfig(EnvironmentConfig):
    """Tools that the model calls by name in its turn; it is finished when a turn calls none."""

    kind: Literal["tools", "calculator", "python"] = "tools"
    """Which environment this is."""
    tools: tuple[ToolName, ...] = ("calculator", "python")
    """The tools there are."""
    formats: tuple[Literal["hermes", "fenced"], ...] = ("hermes", "fenced")
    """``hermes``: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``; ``fenced``: a block of
    ```` ```python ````, which calls ``python``."""
    role: str = "tool"
    """Role of the answers; ``user`` for a chat template that knows no tools."""
    max_calls: int = Field(default=4, ge=1)
    """Calls answered per turn; further ones are told so."""
    output_characters: int = Field(default=2000, ge=16)
    """Longest answer of a tool; its middle is left out."""
    seconds: float = Field(default=5.0, gt=0)
    """Time that one call of ``python`` may take."""
    memory_bytes: int = Field(default=512 << 20, ge=32 << 20)
    """Memory of ``python`` in bytes."""
    packages: bool = False
    """Whether ``python`` sees the installed packages, not only the standard library."""

    @field_validator("tools", "formats")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one is needed")
        return value


class CalculatorConfig(ToolsConfig):
    """The calculator alone."""

    kind: Literal["calculator"] = "calculator"
    """Which environment this is."""
    tools: tuple[ToolName, ...] = ("calculator",)
    """The tools there are."""


class PythonToolConfig(ToolsConfig):
    """Python in a sandbox alone; every call starts afresh."""

    kind: Literal["python"] = "python"
    """Which environment this is."""
    tools: tuple[ToolName, ...] = ("python",)
    """The tools there are."""


class CustomConfig(EnvironmentConfig):
    """A user's class with a method ``reply``, see `tatara.rl.environments.environment.Environment`."""

    kind: Literal["custom"] = "custom"
    """Which environment this is."""
    target: str
    """``module:Class`` or ``path/file.py:Class``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments that the class is made with."""


KINDS: dict[str, type[EnvironmentConfig]] = {
    "calculator": CalculatorConfig,
    "python": PythonToolConfig,
    "tools": ToolsConfig,
    "custom": CustomConfig,
}


def read_environments(value: Any) -> dict[str, EnvironmentConfig]:
    """Build the environments from a mapping of names to ``{kind: ..., ...}``.

    Raises:
        ValueError: One line that names the environment, the key and the nearest right one.
    """
    return read_named(value, KINDS, EnvironmentConfig, "environment", EXAMPLE)


def _dump(environments: Mapping[str, EnvironmentConfig]) -> dict[str, Any]:
    return {name: environment.dump() for name, environment in environments.items()}


Environments = Annotated[dict[str, EnvironmentConfig], BeforeValidator(read_environments), PlainSerializer(_dump)]
"""Type of a field ``environments: {name: {kind: ..., ...}}``."""
