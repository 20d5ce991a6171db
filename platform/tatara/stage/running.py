"""Run a job: an attempt at its artifact, committed when the stage's function returns."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tatara
from tatara import artifact, storage
from tatara.artifact import Artifact, Draft, InputEntry, Store
from tatara.config import Config
from tatara.errors import ArtifactError, ConfigError
from tatara.progress import Progress, duration, size
from tatara.stage.description import Job, Stage, StageRun
from tatara.stage.planning import Plan, plan, sources_entry

RECORD = "_stage"
"""Payload directory with what the framework recorded: the metric series and ``report.json``."""
METRICS = "metrics.jsonl"
"""Name of the metric series, in the work directory while the stage runs, then in the payload."""


def open_inputs(job: Job) -> dict[str, Artifact]:
    """Open a job's inputs and check their kinds.

    Raises:
        ConfigError: An input is not given, or there is no input of that name.
        ArtifactError: An input is missing or of another kind.
    """
    stage = job.stage
    for name in job.inputs:
        if stage.kind_of(name) is None:
            raise ConfigError(f"{stage.name} has no input {name!r}; it takes: {stage.takes() or 'none'}")
    for name, kind in stage.inputs.items():
        if name not in job.inputs:
            raise ConfigError(f"{stage.name} needs its input: --input {name}={kind}/NAME@VERSION (or a directory)")
    store = Store(job.root)
    opened = {}
    for name, reference in job.inputs.items():
        found = store.resolve(reference)
        if found.kind != stage.kind_of(name):
            raise ArtifactError(
                f"input {name} of {stage.name} must be a {stage.kind_of(name)}, but {found.reference} is given"
            )
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
                sources=sources_entry(found.sources),
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
