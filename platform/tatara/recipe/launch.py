"""How a recipe's stage is run: as a process of this machine, or as a job of a Ray cluster."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
import yaml

from tatara import cluster, storage
from tatara.errors import ClusterError
from tatara.stage import Job

_STOP_SECONDS = 30.0


class RunningStage(Protocol):
    """A stage that was started."""

    def lines(self) -> Iterator[str]:
        """What it prints, line by line, until it ends."""

    def wait(self) -> int:
        """Its exit status, once it has ended."""

    def stop(self) -> None:
        """Stop it and everything that it started."""


class Launcher(Protocol):
    """Starts stages."""

    def start(self, job: Job, file: Path) -> RunningStage:
        """Start a stage; its resolved job is kept in ``file``."""


def write_job(job: Job, file: Path) -> None:
    """Write a job file that ``tatara <stage> --config FILE`` runs."""
    text = yaml.safe_dump(job.literals(), sort_keys=False, allow_unicode=True)
    storage.write_bytes(str(file), text.encode())


class LocalLauncher:
    """Stages as processes of this machine, each with a private Ray cluster (or the one of ``RAY_ADDRESS``)."""

    def start(self, job: Job, file: Path) -> "LocalStage":
        """See `Launcher`."""
        write_job(job, file)
        environment = {
            **os.environ,
            "TATARA_EVENTS": "1",
            "TATARA_PARENT": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(part for part in (_source_root(), os.environ.get("PYTHONPATH")) if part),
        }
        command = [sys.executable, "-m", "tatara", job.stage.name, *job.stage.arguments, "--config", str(file)]
        # In a session of its own, Ctrl-C reaches this process alone, which then stops the stage in order.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            encoding="utf-8", errors="replace", env=environment, start_new_session=True,
        )  # fmt: skip
        return LocalStage(process)


class LocalStage:
    """A stage's process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def lines(self) -> Iterator[str]:
        """See `RunningStage`."""
        assert self._process.stdout is not None
        # A grandchild that outlives the stage may hold the pipe open: what counts is the stage's own end.
        closer = threading.Thread(target=self._close_after_exit, daemon=True)
        closer.start()
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                yield line.rstrip("\n")

    def _close_after_exit(self) -> None:
        self._process.wait()
        time.sleep(2.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """See `RunningStage`."""
        return self._process.wait()

    def stop(self) -> None:
        """Ask with SIGTERM, wait for an orderly end, then end whatever is left of it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            family = [parent, *parent.children(recursive=True)]
            parent.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
            _, alive = psutil.wait_procs(family, timeout=5.0)
            for member in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
        self._process.wait()


class RemoteLauncher:
    """Stages as jobs of the Ray cluster behind a dashboard address."""

    def __init__(self, address: str, working_dir: Path) -> None:
        self._address = address
        self._working_dir = working_dir
        if not (working_dir / "jobs").is_dir():
            raise ClusterError(f"{working_dir} has no jobs/: run from a checkout of Tatara, which is what is submitted")

    def start(self, job: Job, file: Path) -> "RemoteStage":
        """See `Launcher`."""
        write_job(job, file)
        literals = json.dumps({**job.literals(), "root": storage.absolute(job.root)}, ensure_ascii=True)
        entrypoint = shlex.join(["python", f"jobs/{job.stage.name}.py", *job.stage.arguments, "--job", literals])
        environment = {"TATARA_EVENTS": "1", "PYTHONUNBUFFERED": "1"}
        # Where the store is travels along; keys do not, since everyone who sees the job sees its environment.
        for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
            if name in os.environ:
                environment[name] = os.environ[name]
        handle = cluster.submit(
            self._address,
            entrypoint,
            working_dir=self._working_dir,
            env_vars=environment,
            metadata={"tatara.stage": job.stage.name, "tatara.name": job.name},
        )
        return RemoteStage(handle)


class RemoteStage:
    """A stage's job on a cluster."""

    def __init__(self, handle: cluster.JobHandle) -> None:
        self._handle = handle

    def lines(self) -> Iterator[str]:
        """See `RunningStage`."""
        return self._handle.follow()

    def wait(self) -> int:
        """See `RunningStage`; a job that did not succeed counts as 1."""
        return 0 if self._handle.wait() == "SUCCEEDED" else 1

    def stop(self) -> None:
        """See `RunningStage`."""
        self._handle.stop()


def _source_root() -> str:
    """The directory that holds the package, for children of a process that runs it from a checkout."""
    return str(Path(__file__).resolve().parents[2])
