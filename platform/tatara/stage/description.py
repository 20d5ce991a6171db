"""What a stage is, what it is given, and a job: a stage with everything it takes to run it."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tatara.artifact import Artifact, Attempt
from tatara.config import Config
from tatara.errors import MissingExtraError
from tatara.progress import Progress


@dataclass(frozen=True)
class SourceFile:
    """One raw input from outside the artifact store.

    Attributes:
        path: Path, URL, or ``package:<name>`` for a distribution that is identified as a whole.
        size: Bytes.
        sha256: Hash of the content (or, for a package, of its own list of file hashes).
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Stage:
    """What a stage is, without importing what it runs.

    Attributes:
        name: Also its subcommand and its ``jobs/<name>.py``.
        kind: Kind of the artifact that it writes.
        config: Its configuration class.
        inputs: Input name to the kind of artifact it must be; each must be given.
        optional: The same for inputs that may be left out.
        more: Kind of any further inputs, whose names the user chooses; None where there are none.
        run: ``module:function`` that is called with (configuration, `StageRun`) and returns summary figures.
        sources: ``module:function`` that lists raw inputs of a configuration as `SourceFile`s, if there are any.
        arguments: What makes its command end once the artifact is there, for a stage whose command serves for ever.
        extra: The extra of the distribution that brings its dependencies.
    """

    name: str
    kind: str
    config: type[Config]
    inputs: Mapping[str, str]
    run: str
    sources: str | None = None
    arguments: tuple[str, ...] = ()
    extra: str = "all"
    optional: Mapping[str, str] = field(default_factory=dict)
    more: str | None = None

    def kind_of(self, name: str) -> str | None:
        """Kind of the artifact that an input must be; None where the stage has no such input."""
        return self.inputs.get(name) or self.optional.get(name) or self.more

    def takes(self) -> str:
        """The inputs in words."""
        known = [f"{name} ({kind})" for name, kind in self.inputs.items()]
        known += [f"{name} ({kind}, optional)" for name, kind in self.optional.items()]
        if self.more:
            known.append(f"further ones of any name ({self.more})")
        return ", ".join(known)

    def resolve(self, target: str) -> Any:
        """Import the object behind ``module:function``.

        Raises:
            MissingExtraError: A package that it imports is not installed.
        """
        module, _, name = target.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "tatara":
                raise
            raise MissingExtraError(
                f"{self.name} needs {error.name}, which is not installed: pip install 'tatara[{self.extra}]'"
            ) from error


@dataclass
class StageRun:
    """What a stage's function is given.

    Attributes:
        stage: The stage.
        name: Name of the artifact that is being made.
        inputs: Input artifacts by input name.
        output: Where to write; committed by the framework when the function returns.
        work: A directory of this very computation (same fingerprint) that survives a kill: checkpoints and partial
            results belong here. Deleted after the commit.
    """

    stage: Stage
    name: str
    inputs: Mapping[str, Artifact]
    output: Attempt
    work: Path
    shown: Progress
    tracker: Any = None
    reports: dict[str, Any] = field(default_factory=dict)

    def log(self, message: str) -> None:
        """Say something, one line or several."""
        self.shown.log(message)

    def progress(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        """Show how far the work is; see `tatara.progress.Progress.update`."""
        self.shown.update(done, total, unit, **figures)

    def metrics(self, step: int, **values: float) -> None:
        """Record figures of a step: JSONL always, Weights & Biases where it is installed."""
        if self.tracker is not None:
            self.tracker.log(step, **values)

    def report(self, key: str, value: Any) -> None:
        """Hand JSON-able data to the run report."""
        self.reports[key] = value


@dataclass(frozen=True)
class Job:
    """One stage with everything it takes to run it.

    Attributes:
        stage: The stage.
        config: Its resolved configuration.
        name: Name of the artifact to make.
        root: Artifact root, a path or URL.
        inputs: Input name to artifact reference, path or URL.
        version: The version to write; None takes the next free one.
    """

    stage: Stage
    config: Config
    name: str
    root: str
    inputs: Mapping[str, str]
    version: int | None = None

    def literals(self) -> dict[str, Any]:
        """The job as JSON-able literals, in the shape of a job file."""
        return {
            "name": self.name,
            "root": self.root,
            "inputs": dict(self.inputs),
            **({"version": self.version} if self.version is not None else {}),
            "config": self.config.dump(),
        }
