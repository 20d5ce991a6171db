"""Submit a command to a running cluster over the Ray Jobs API, follow its log, stop it."""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tatara.cluster import authentication
from tatara.cluster.session import first_line
from tatara.errors import ClusterError

T = TypeVar("T")

EXCLUDES = (
    ".git",
    ".venv",
    ".tatara",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    "wandb",
    "/tests",
)
"""What a working directory leaves behind when it travels to the cluster (gitignore patterns)."""

FINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
"""Statuses of a job that has ended; before it is ``PENDING`` or ``RUNNING``."""

_PROBE_SECONDS = 5.0
_POLL_SECONDS = 0.5
_GONE_SECONDS = 60.0
# A connection without news for so long is renewed: a head that vanished from the network closes none.
_QUIET_SECONDS = 60.0
_REQUEST_SECONDS = 120.0
# Ray gives a driver 3 s between SIGTERM and SIGKILL, too few to shut its own cluster or server down.
_STOP_SECONDS = 15
# What Ray's client would rather use than the address it is given.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class JobHandle:
    """A submitted job."""

    address: str
    """``http://HOST:PORT`` of the cluster's dashboard."""
    submission_id: str
    _client: Any

    @property
    def status(self) -> str:
        """``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``."""
        return str(self._ask(lambda: self._client.get_job_status(self.submission_id)).value)

    @property
    def message(self) -> str:
        """What Ray says about the status, such as why a job failed to start."""
        return str(self._ask(lambda: self._client.get_job_info(self.submission_id)).message or "")

    @property
    def exit_code(self) -> int | None:
        """Exit code of the command; None before it ended, or if it never started."""
        code = self._ask(lambda: self._client.get_job_info(self.submission_id)).driver_exit_code
        return None if code is None else int(code)

    def follow(self) -> Iterator[str]:
        """Yield the job's log line by line as it grows, from its beginning to its end.

        Raises:
            ClusterError: The cluster was not to be reached for a minute; the job may still run there.
        """
        pending = ""
        for text in self._texts():
            *lines, pending = (pending + text).split("\n")
            yield from lines
        if pending:
            yield pending

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait for the end of the job and return its final status.

        Raises:
            ClusterError: It has not ended in time (it keeps running), or the cluster is gone.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := self.status) not in FINAL:
            if deadline is not None and time.monotonic() > deadline:
                raise ClusterError(f"job {self.submission_id} is still {status} after {timeout_s:.0f} s")
            time.sleep(_POLL_SECONDS)
        return status

    def stop(self, timeout_s: float = 60.0) -> str:
        """Stop the job and all that it started; return its final status (that of its end, if it had ended).

        Raises:
            ClusterError: It did not stop in time.
        """
        if self.status not in FINAL:
            self._ask(lambda: self._client.stop_job(self.submission_id))
        return self.wait(timeout_s)

    def _texts(self) -> Iterator[str]:
        """Pieces of the log in order; after a broken connection it goes on where it was."""
        delivered = 0
        broken_since: float | None = None
        while True:
            position = 0
            try:
                for text in self._tail():
                    broken_since = None
                    fresh = text[max(0, delivered - position) :]
                    position += len(text)
                    delivered = max(delivered, position)
                    if fresh:
                        yield fresh
                if self.status in FINAL:
                    break
            except ClusterError:
                now = time.monotonic()
                broken_since = broken_since or now
                if now - broken_since > _GONE_SECONDS:
                    raise
            time.sleep(_POLL_SECONDS)
        # The tail ends with the job, at times before the last lines were read.
        rest = str(self._ask(lambda: self._client.get_job_logs(self.submission_id)))[delivered:]
        if rest:
            yield rest

    def _tail(self) -> Iterator[str]:
        """One connection's worth of log, each step of the asynchronous client run in a loop of its own."""
        import aiohttp

        loop = asyncio.new_event_loop()
        pieces = self._client.tail_job_logs(self.submission_id)
        try:
            while True:
                try:
                    yield loop.run_until_complete(asyncio.wait_for(anext(pieces), _QUIET_SECONDS))
                except (StopAsyncIteration, TimeoutError):
                    return
                except (aiohttp.ClientError, OSError, RuntimeError) as error:
                    raise ClusterError(f"lost the log of job {self.submission_id} at {self.address}: {error}") from None
        finally:
            loop.run_until_complete(pieces.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _ask(self, call: Callable[[], T]) -> T:
        import requests

        try:
            return call()
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise ClusterError(
                f"{self.address} no longer answers about job {self.submission_id} ({type(error).__name__})"
            ) from None
        except RuntimeError as error:
            raise ClusterError(f"job {self.submission_id} at {self.address}: {first_line(error)}") from None


def submit(
    address: str,
    entrypoint: str,
    *,
    working_dir: str | Path | None = None,
    env_vars: Mapping[str, str] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    excludes: tuple[str, ...] = EXCLUDES,
    submission_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    entrypoint_num_cpus: float = 0,
) -> JobHandle:
    """Start a command on a cluster.

    Args:
        address: ``http://HOST:PORT`` of the dashboard (default port 8265).
        entrypoint: Shell command, run in the working directory's copy on the cluster.
        working_dir: Directory to send along; its ``platform`` directory, if any, joins the import path of the
            command and of all its workers.
        env_vars: Environment of the command and of all its workers.
        runtime_env: More of Ray's runtime environment; wins over what is set here.
        excludes: Gitignore patterns of what stays behind; ``.gitignore`` files are respected as well.
        submission_id: Name of the job; default: Ray makes one up.
        metadata: Kept by Ray with the job.
        entrypoint_num_cpus: CPUs to reserve for the command itself.

    Raises:
        ClusterError: Nothing answers at the address, it refuses our token, the working directory is missing or too
            large, or there is already a job with this name.
    """
    environment = _environment(working_dir, env_vars or {}, runtime_env or {}, excludes)
    client = _connect(address)
    try:
        started = client.submit_job(
            entrypoint=entrypoint,
            runtime_env=environment,
            submission_id=submission_id,
            metadata=dict(metadata or {}),
            entrypoint_num_cpus=entrypoint_num_cpus or None,
        )
    except Exception as error:
        raise ClusterError(_refused(error, working_dir, submission_id, address)) from error
    return JobHandle(address, started, client)


def attach_job(address: str, submission_id: str) -> JobHandle:
    """A handle of a job that was submitted before.

    Raises:
        ClusterError: Nothing answers at the address, or there is no such job.
    """
    handle = JobHandle(address, submission_id, _connect(address))
    _ = handle.status
    return handle


def _environment(
    working_dir: str | Path | None, env_vars: Mapping[str, str], extra: Mapping[str, Any], excludes: tuple[str, ...]
) -> dict[str, Any]:
    variables = {
        "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
        **{name: os.environ[name] for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name in os.environ},
    }
    environment: dict[str, Any] = {}
    if working_dir is not None:
        directory = Path(working_dir)
        if not directory.is_dir():
            raise ClusterError(f"no directory at {directory} to send to the cluster")
        environment = {"working_dir": str(directory), "excludes": list(excludes)}
        if (directory / "platform" / "tatara").is_dir():
            # Relative, since every node unpacks the directory at a place of its own.
            variables["PYTHONPATH"] = "platform"
    more = dict(extra)
    environment["env_vars"] = {**variables, **env_vars, **more.pop("env_vars", {})}
    return {**environment, **more}


def _connect(address: str) -> Any:
    """A client for an address that was seen to answer: Ray's own would wait without a limit."""
    import requests
    from ray.job_submission import JobSubmissionClient

    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ClusterError(f"{address!r} is not the address of a dashboard: give http://HOST:PORT (default port 8265)")
    for name, value in authentication.attach_settings().items():
        os.environ[name] = value or ""
    authentication.reload()
    try:
        code = requests.get(f"{address}/api/version", timeout=_PROBE_SECONDS, headers=_headers()).status_code
    except requests.exceptions.RequestException as error:
        raise ClusterError(
            f"no Ray dashboard answers at {address} ({type(error).__name__}): check the address, "
            "and that the head runs with its dashboard"
        ) from None
    if code in (401, 403):
        raise ClusterError(authentication.refusal(address))
    if code != 200:
        raise ClusterError(f"what answers at {address} is not a Ray dashboard (HTTP {code} for /api/version)")
    # The client tells of each package and connection; what matters of it is in our own errors.
    for name in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    with _without(_OVERRIDES):
        client = JobSubmissionClient(address)
    # Ray's requests have no limit in time, and no argument for one.
    client._do_request = functools.partial(client._do_request, timeout=_REQUEST_SECONDS)
    return client


def _headers() -> dict[str, str]:
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _refused(error: Exception, working_dir: str | Path | None, submission_id: str | None, address: str) -> str:
    text = str(error)
    if "exceeds the maximum size" in text or "413" in text:
        return (
            f"{working_dir} is too large to send to the cluster ({first_line(error).rstrip('.')}); largest in it: "
            f"{_largest(Path(working_dir or '.'))}: exclude what the job does not need, or send a smaller directory"
        )
    if "already exists" in text:
        return f"there is already a job named {submission_id} at {address}: choose another name"
    return f"the cluster at {address} did not take the job: {first_line(error)}"


def _largest(directory: Path) -> str:
    sizes: dict[str, int] = {}
    for entry in directory.iterdir():
        if entry.name not in EXCLUDES:
            files = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
            sizes[entry.name] = sum(path.stat().st_size for path in files)
    top = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
    return ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MiB)" for name in top)
