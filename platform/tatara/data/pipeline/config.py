"""The configuration of the ``curate`` stage: a corpus, and the ordered steps that it goes through."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, SerializeAsAny, field_serializer, field_validator
from pydantic.fields import FieldInfo

from tatara import config as configs
from tatara.config import Config, operational
from tatara.data.read.config import DEFAULT_CORPUS, ReadConfig
from tatara.data.steps import STEPS, StepConfig
from tatara.errors import ConfigError
from tatara.stage import Stage

DEFAULT_STEPS = (
    "repair",
    "length",
    "language",
    "c4",
    "gopher_quality",
    "gopher_repetition",
    "exact_dedup",
    "fuzzy_dedup",
)
"""What text goes through when nothing else is said. Pages of HTML need ``extract`` first."""


def step_config(name: str) -> type[StepConfig]:
    """The configuration class of a step.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in STEPS:
        raise ConfigError(f"unknown step '{name}'; {configs.nearest(name, STEPS)}")
    module, _, kind = STEPS[name].partition(":")
    found: type[StepConfig] = getattr(importlib.import_module(module), kind)
    return found


class CurateConfig(Config):
    """From raw files to clean, unique documents: a corpus and the ordered steps that it goes through."""

    corpus: str | tuple[str, ...] | dict[str, str] = operational(DEFAULT_CORPUS)
    """``python-docs``, or a file, directory, glob or URL; a list of them; or a mapping of names to them, which become
    the first part of documents' sources. WARC, WET, HTML, JSONL, Parquet, text and MediaWiki dumps, also compressed.
    Their content, not their place, decides whether the stage runs again."""
    read: ReadConfig = ReadConfig()
    """How files are read."""
    pipeline: tuple[SerializeAsAny[StepConfig], ...] = Field(DEFAULT_STEPS)  # type: ignore[arg-type]
    """What documents go through, in order: names of steps, or ``name: {parameters}``. ``tatara steps`` lists them.
    On the command line ``--pipeline.NAME.PARAMETER VALUE`` sets one of a step's parameters."""
    shard_bytes: int | None = operational(None, ge=1)
    """Raw bytes per task and per file of the result; by default a 32nd of a small corpus and a 512th of a large one,
    2 to 512 MB. The documents and their order do not depend on it."""
    task_memory: int = operational(768_000_000, ge=32_000_000)
    """Bytes that one task may use while copies are sought. More makes fewer and larger tasks."""
    samples: int = Field(default=5, ge=0)
    """Dropped documents kept per reason, and clusters of copies, for the report."""

    @field_validator("pipeline", mode="before")
    @classmethod
    def _build(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            # Parameters alone: of the default steps, or of ones to be added at the end.
            given = dict(value)
            value = [{name: given.pop(name, None)} for name in DEFAULT_STEPS] + [{k: v} for k, v in given.items()]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError("a list of steps is needed, such as [repair, length, exact_dedup]")
        return tuple(_step(item) for item in value)

    @field_serializer("pipeline")
    def _dump(self, steps: tuple[StepConfig, ...]) -> list[dict[str, Any]]:
        return [{step.step: step.dump()} for step in steps]

    def identity(self) -> dict[str, Any]:
        """As everywhere, with the steps by name."""
        return {**super().identity(), "pipeline": [{step.step: step.identity()} for step in self.pipeline]}

    @classmethod
    def more_fields(cls) -> Iterator[tuple[str, FieldInfo]]:
        """The parameters of every step."""
        for name in STEPS:
            for key, field in configs.leaf_fields(step_config(name)):
                yield f"pipeline.{name}.{key}", field


def _step(item: Any) -> StepConfig:
    if isinstance(item, StepConfig):
        return item
    if isinstance(item, str):
        name, parameters = item, None
    elif isinstance(item, Mapping) and len(item) == 1:
        name, parameters = next(iter(item.items()))
    else:
        raise ValueError(f"a step is a name, or a mapping of one name to its parameters, not {item!r}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ValueError(f"{name}: a mapping of parameters is needed, not {parameters!r}")
    try:
        return configs.load(step_config(str(name)), parameters or {}, where=f"step {name}")
    except ConfigError as error:
        raise ValueError(str(error)) from None


STAGE = Stage(
    name="curate",
    kind="documents",
    config=CurateConfig,
    inputs={},
    run="tatara.data.pipeline.run:run",
    sources="tatara.data.pipeline.run:sources",
    extra="data",
)
