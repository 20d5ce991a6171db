"""A stage: one kind of job that turns artifacts into an artifact, and what it takes to run one."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tatara
from tatara import artifact, storage
from tatara.artifact import Artifact, Attempt, Draft, InputEntry, SourcesEntry, Store
from tatara.config import Config
from tatara.errors import ArtifactError, ConfigError, MissingExtraError
from tatara.progress import Progress, duration, size

RECORD = "_stage"
"""Payload directory with what the framework recorded: the metric series and ``report.json``."""
METRICS = "metrics.jsonl"
"""Name of the metric series, in the work directory while the stage runs, then in the payload."""


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
        inputs: Input name to the kind of artifact it must be.
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


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes:
        fingerprint: Of the result.
        existing: The committed artifact with this fingerprint; the job is then skipped.
        version: The version that will be written.
        drift: Why a result under this name does not count any more; empty when there is none.
        sources: Raw inputs.
    """

    fingerprint: str
    existing: Artifact | None
    version: int
    drift: str
    sources: tuple[SourceFile, ...]


def plan(job: Job, input_fingerprints: Mapping[str, str]) -> Plan:
    """Decide whether a job has to run and which version it writes; needs no input to exist yet.

    Raises:
        ArtifactError: The version is fixed and holds another result.
        DataError: A raw input is missing.
    """
    artifact.check_name(job.name)
    sources: tuple[SourceFile, ...] = ()
    if job.stage.sources:
        sources = tuple(job.stage.resolve(job.stage.sources)(job.config))
    digest = _sources_entry(sources)
    own = artifact.fingerprint(
        job.stage.name, job.config.identity(), input_fingerprints, digest.sha256 if digest else None
    )
    store = Store(job.root)
    versions = store.versions(job.stage.kind, job.name)
    existing = store.find(job.stage.kind, job.name, own) if versions else None
    drift = ""
    if versions and existing is None:
        latest = store.open(f"{job.stage.kind}/{job.name}@{versions[-1]}")
        drift = differences(latest, job.config, input_fingerprints, digest)
    following = versions[-1] + 1 if versions else 1
    if existing is None and job.version in versions:
        raise ArtifactError(
            f"{job.stage.kind}/{job.name}@{job.version} is there with another content ({drift}): "
            f"set version: {following}, or leave the version out"
        )
    version = existing.version if existing else job.version or following
    return Plan(own, existing, version, drift, sources)


def differences(
    latest: Artifact, config: Config, input_fingerprints: Mapping[str, str], sources: SourcesEntry | None
) -> str:
    """What makes a new result differ from the newest one of its name, in words."""
    before, after = _flat(latest.manifest.config), _flat(config.dump())
    identity = set(_flat(config.identity()))
    changed = [
        f"{key} {before[key]} -> {after[key]}" if key in before else f"{key} {after[key]} is new"
        for key in after
        if key in identity and before.get(key, _MISSING) != after[key]
    ]
    changed += [
        f"input {name} is another one"
        for name, value in input_fingerprints.items()
        if name not in latest.manifest.inputs or latest.manifest.inputs[name].fingerprint != value
    ]
    if (sources.sha256 if sources else None) != (latest.manifest.sources.sha256 if latest.manifest.sources else None):
        changed.append("raw files changed")
    return "; ".join(changed[:4]) + (f"; {len(changed) - 4} more" if len(changed) > 4 else "") or "the code's schema"


_MISSING = object()


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _sources_entry(sources: Sequence[SourceFile]) -> SourcesEntry | None:
    if not sources:
        return None
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(sources, key=lambda item: item.path):
        # The place is not the identity: the same file elsewhere is the same input.
        digest.update(f"{file.path.rsplit('/', 1)[-1]}\0{file.size}\0{file.sha256}\n".encode())
    return SourcesEntry(files=len(sources), bytes=sum(file.size for file in sources), sha256=digest.hexdigest())


def open_inputs(job: Job) -> dict[str, Artifact]:
    """Open a job's inputs and check their kinds.

    Raises:
        ConfigError: An input is not given, or there is no input of that name.
        ArtifactError: An input is missing or of another kind.
    """
    wanted = job.stage.inputs
    for name in job.inputs:
        if name not in wanted:
            raise ConfigError(f"{job.stage.name} has no input {name!r}; it takes: {', '.join(wanted) or 'none'}")
    store = Store(job.root)
    opened = {}
    for name, kind in wanted.items():
        if name not in job.inputs:
            raise ConfigError(f"{job.stage.name} needs its input: --input {name}={kind}/NAME@VERSION (or a directory)")
        found = store.resolve(job.inputs[name])
        if found.kind != kind:
            raise ArtifactError(f"input {name} of {job.stage.name} must be a {kind}, but {found.reference} is given")
        opened[name] = found
    return opened


def execute(job: Job, connect: Any = None) -> Artifact:
    """Run a job, or find that it is done already.

    Args:
        job: The job.
        connect: Called before the stage's function to bring up Ray.

    Raises:
        TataraError: What the stage raised; nothing is committed then.
    """
    shown = Progress(job.stage.name)
    inputs = open_inputs(job)
    found = plan(job, {name: item.fingerprint for name, item in inputs.items()})
    if found.existing:
        shown.log(f"up to date: {found.existing.reference}")
        return found.existing
    if found.drift:
        shown.log(f"writes version {found.version}, because of: {found.drift}")
    with attempt(job, found, inputs, shown) as run:
        if connect is not None:
            connect()
        summary = job.stage.resolve(job.stage.run)(job.config, run.stage_run)
        run.commit(summary or {})
    assert run.artifact is not None
    total = sum(entry.size for entry in run.artifact.manifest.files)
    shown.log(f"committed {run.artifact.reference} ({size(total)}) in {duration(run.artifact.manifest.seconds)}")
    return run.artifact


@dataclass
class OpenAttempt:
    """A stage's attempt while it runs; `artifact` is set by `commit`."""

    stage_run: StageRun
    started: float
    artifact: Artifact | None = None

    def commit(self, summary: Mapping[str, Any]) -> Artifact:
        """Store the series and the report data with the payload, then publish it."""
        run = self.stage_run
        if run.tracker is not None:
            run.tracker.close()
        record = run.output.path / RECORD
        record.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(run.work / METRICS, record / METRICS)
        (record / "report.json").write_text(json.dumps(run.reports, ensure_ascii=False), encoding="utf-8")
        self.artifact = run.output.commit(summary, time.monotonic() - self.started)
        shutil.rmtree(run.work, ignore_errors=True)
        return self.artifact


@contextmanager
def attempt(job: Job, found: Plan, inputs: Mapping[str, Artifact], shown: Progress) -> Iterator[OpenAttempt]:
    """Hold a stage's work directory and its private output; whatever goes wrong, nothing is half committed."""
    from tatara.tracking import MetricLog, environment

    started = time.monotonic()
    store = Store(job.root)
    work = work_path(job, found.fingerprint)
    try:
        lock = storage.exclusive_lock(work.with_name(f"{work.name}.lock"))
        with lock:
            draft = Draft(
                kind=job.stage.kind,
                name=job.name,
                version=found.version,
                stage=job.stage.name,
                fingerprint=found.fingerprint,
                config=job.config.dump(),
                inputs={
                    name: InputEntry(reference=item.reference, url=item.url, fingerprint=item.fingerprint)
                    for name, item in inputs.items()
                },
                sources=_sources_entry(found.sources),
                code_version=code_version(),
                command=list(sys.argv),
                environment=environment(Path(__file__).resolve().parent),
            )
            output = store.begin(draft)
            storage.make_directory(str(work))
            if found.sources:
                lines = (json.dumps({"path": s.path, "size": s.size, "sha256": s.sha256}) for s in found.sources)
                (output.path / "sources.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            # Runs of Weights & Biases outlive the work directory, so that offline ones can be synchronised later.
            os.environ.setdefault("WANDB_DIR", str(work_directory(job.root).parent))
            run_name = f"{job.name}/{job.stage.name}"
            tracker = MetricLog(work / METRICS, project="tatara", run_name=run_name, config=draft.config)
            run = StageRun(job.stage, job.name, inputs, output, work, shown, tracker)
            opened = OpenAttempt(run, started)
            try:
                yield opened
            finally:
                shown.close()
                tracker.close()
                if opened.artifact is None:
                    output.discard()
    except storage.LockHeldError as error:
        raise ArtifactError(
            f"{job.stage.name} of '{job.name}' is being run by {error}: wait for it, or choose another --name"
        ) from None


@contextmanager
def standalone(
    stage: Stage,
    config: Config,
    *,
    inputs: Mapping[str, Artifact] | None = None,
    root: str | Path,
    name: str = "standalone",
    version: int | None = None,
) -> Iterator[OpenAttempt]:
    """Run a stage's function by hand: yields its attempt, whose `OpenAttempt.commit` makes the artifact.

    The Ray cluster, if the stage needs one, is the caller's.
    """
    inputs = inputs or {}
    job = Job(stage, config, name, str(root), {key: item.url for key, item in inputs.items()}, version)
    found = plan(job, {key: item.fingerprint for key, item in inputs.items()})
    with attempt(job, found, inputs, Progress(stage.name)) as opened:
        yield opened


def work_path(job: Job, fingerprint: str) -> Path:
    """Where the partial results of one computation live: the same for every try at it."""
    return work_directory(job.root) / f"{job.stage.name}-{job.name}-{fingerprint[:16]}"


def work_directory(root: str) -> Path:
    """Where partial results live: below a local root, else ``$TATARA_WORK`` or the cache directory.

    On a cluster of several nodes it must be on storage that all of them share.
    """
    if override := os.environ.get("TATARA_WORK"):
        return Path(override)
    if storage.is_local(root):
        return Path(storage.absolute(root)) / "work"
    return artifact.cache_directory() / "work"


def code_version() -> str:
    """The version of Tatara, with the commit (and ``+dirty``) when it runs from a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+dirty", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return tatara.__version__
    commit = described.stdout.strip()
    return f"{tatara.__version__}+{commit}" if described.returncode == 0 and commit else tatara.__version__
