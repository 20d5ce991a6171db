"""From the list of steps to passes over the corpus.

Row steps that follow one another run in one pass, document after document. A global step ends a pass: its keys are
collected in it, its decision is made after it, and its verdicts are handed down at the start of the next. Global steps
in a row share a pass.
"""

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tatara.config import Config
from tatara.data.steps import GlobalStep, RowStep, StepConfig


@dataclass(frozen=True)
class PlannedStep:
    """A step at its place.

    Attributes:
        position: Its place in the list of steps, from 0.
        label: Its name; with its number where the same step is listed more than once.
        config: Its parameters.
    """

    position: int
    label: str
    config: StepConfig

    @cached_property
    def kind(self) -> type[RowStep] | type[GlobalStep]:
        """The class that does the work."""
        module, _, name = self.config.implementation.partition(":")
        found: type[RowStep] | type[GlobalStep] = getattr(importlib.import_module(module), name)
        return found

    @property
    def is_global(self) -> bool:
        """Whether it has to see every document before it decides about any."""
        return issubclass(self.kind, GlobalStep)

    def directory(self, work: Path) -> Path:
        """Where it keeps its files below a work directory."""
        return work / f"{self.position:02d}-{self.config.step}"

    def make(self, work: Path) -> Any:
        """The step itself."""
        return self.kind(self.config, self.directory(work))


@dataclass(frozen=True)
class Segment:
    """One pass over the corpus.

    Attributes:
        index: Its number, from 0.
        rows: Row steps, in order.
        globals: Global steps that collect at its end; empty for the last pass, which writes the result.
        stored: Whether its documents are written down for the next pass; else that reads and does them again, which is
            cheaper where nothing, or little, happens to them.
    """

    index: int
    rows: tuple[PlannedStep, ...]
    globals: tuple[PlannedStep, ...]
    stored: bool


def plan_steps(configs: Sequence[StepConfig]) -> tuple[PlannedStep, ...]:
    """Number and label steps."""
    times = Counter(config.step for config in configs)
    seen: Counter[str] = Counter()
    planned = []
    for position, config in enumerate(configs):
        seen[config.step] += 1
        label = config.step if times[config.step] == 1 else f"{config.step}#{seen[config.step]}"
        planned.append(PlannedStep(position, label, config))
    return tuple(planned)


def plan_segments(steps: Sequence[PlannedStep]) -> tuple[Segment, ...]:
    """Cut steps into passes."""
    segments: list[Segment] = []
    rows: list[PlannedStep] = []
    waiting: list[PlannedStep] = []

    def close() -> None:
        first = not segments
        stored = not (first and all(step.config.light for step in rows))
        segments.append(Segment(len(segments), tuple(rows), tuple(waiting), stored))
        rows.clear()
        waiting.clear()

    for step in steps:
        if step.is_global:
            waiting.append(step)
            continue
        if waiting:
            close()
        rows.append(step)
    if waiting:
        close()
    segments.append(Segment(len(segments), tuple(rows), (), True))
    return tuple(segments)


def describe(segments: Sequence[Segment]) -> str:
    """The plan in words, a line for each step, with the parameters that differ from their defaults."""
    lines = []
    for segment in segments:
        after = [step.label for step in (segments[segment.index - 1].globals if segment.index else ())]
        source = f"the verdicts of {', '.join(after)}" if after else "the corpus"
        end = "writes the documents" if not segment.globals else ("" if segment.stored else "nothing is stored")
        lines.append(f"pass {segment.index + 1}: reads {source}{'; ' + end if end else ''}")
        for step in segment.rows:
            lines.append(f"    {step.position + 1:2d}. {step.label}{_parameters(step.config)}")
        for step in segment.globals:
            lines.append(f"    {step.position + 1:2d}. {step.label}, over the whole corpus{_parameters(step.config)}")
    return "\n".join(lines)


def _parameters(config: StepConfig) -> str:
    changed = []
    try:
        defaults: StepConfig | None = type(config)()
    except ValueError:
        defaults = None  # something is required
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        default = getattr(defaults, name) if defaults else field.get_default(call_default_factory=True)
        if value != default:
            shown = value.model_dump(exclude_defaults=True) if isinstance(value, Config) else value
            text = str(shown)
            changed.append(f"{name}={text if len(text) <= 60 else text[:57] + '...'}")
    return f" ({', '.join(changed)})" if changed else ""
