"""Weights & Biases at arm's length: its client runs in a process of its own, fed over a pipe.

In the stage's own process the client would install exit hooks that wait for the network, change the environment and
the exception hooks, and could ask for a key on the terminal. In a process of its own it can be slow, hang or die, and
the stage does not notice; when the stage is killed, the pipe closes and the client finishes the run.
"""

import json
import logging
import netrc
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tatara.errors import ConfigError

MODES = ("auto", "online", "offline", "disabled")
START_SECONDS = 60.0
"""How long the client may take to start before it is given up; nobody waits meanwhile."""
FINISH_SECONDS = {"offline": 10.0, "online": 30.0}
"""How long ``close`` waits for the client to write (or upload) what it holds."""
QUEUE_LINES = 100_000


def warn_by_logging(message: str) -> None:
    """Send a warning line to the ``tatara.tracking`` logger."""
    logging.getLogger("tatara.tracking").warning(message)


def resolve_mode(requested: str, environment: Mapping[str, str]) -> str:
    """Say whether Weights & Biases runs online, offline or not at all.

    Without a key the answer is never ``"online"``: the client would ask for one.

    Args:
        requested: One of ``MODES``.
        environment: Environment variables: ``WANDB_MODE`` narrows ``"auto"``, ``WANDB_API_KEY`` or a netrc login for
            the host of ``WANDB_BASE_URL`` allow ``"online"``.

    Raises:
        ConfigError: ``requested`` is unknown.
    """
    if requested not in MODES:
        raise ConfigError(f"wandb_mode is {requested!r}: use one of {', '.join(MODES)}")
    told = environment.get("WANDB_MODE", "").strip().lower()
    if environment.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes"):
        told = "disabled"
    if "disabled" in (requested, told):
        return "disabled"
    if requested == "offline" or (requested == "auto" and told in ("offline", "dryrun")):
        return "offline"
    return "online" if has_key(environment) else "offline"


def has_key(environment: Mapping[str, str]) -> bool:
    """Whether a Weights & Biases key is at hand: ``WANDB_API_KEY``, or a netrc login for the server."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    home = Path(environment.get("HOME") or Path.home())
    named = environment.get("NETRC")
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            # `hosts`, not `authenticators`: a "default" entry is no login for this server.
            if host in netrc.netrc(str(path)).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def open_sink(
    *,
    directory: Path,
    project: str,
    run_name: str,
    config: Mapping[str, Any],
    mode: str,
    warn: Callable[[str], None],
) -> "WandbSink | None":
    """Make a sink, or ``None`` where Weights & Biases is disabled or not installed.

    Raises:
        ConfigError: ``mode`` is unknown.
    """
    resolved = resolve_mode(mode, os.environ)
    specification = find_spec("wandb") if resolved != "disabled" else None
    # Without an origin it is no package but a directory of runs, `./wandb`, on the path.
    if specification is None or specification.origin is None:
        return None
    header = {
        "project": project,
        "name": run_name,
        "config": dict(config),
        "mode": resolved,
        "dir": os.environ.get("WANDB_DIR") or str(directory.absolute()),
    }
    return WandbSink(header, warn)


class WandbSink:
    """A Weights & Biases run in another process; it starts with the first line and never raises or blocks."""

    def __init__(self, header: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """Prepare a run.

        Args:
            header: What the client process is told first: ``project``, ``name``, ``config``, ``mode`` and ``dir``.
            warn: Receives at most one line.
        """
        self._header = header
        self._warn_once = warn
        self._warned = threading.Lock()
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()

    def send(self, line: str) -> None:
        """Queue one JSON metric line."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._feed, name="tatara-wandb", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._warn("it does not keep up and misses metrics")

    def close(self) -> None:
        """End the run; wait for it at most ``FINISH_SECONDS``, then end its process."""
        if self._thread is None:
            return
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            self._warn("it does not keep up and misses metrics")
        deadline = time.monotonic() + FINISH_SECONDS[self._header["mode"]]
        self._thread.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(
                f"it did not finish in time; upload the rest with `wandb sync {self._header['dir']}/wandb/*run-*`"
            )
            self._end_process()

    def _warn(self, reason: str) -> None:
        if self._warned.acquire(blocking=False):
            self._warn_once(f"Weights & Biases: {reason}; the JSONL metric log goes on")

    def _feed(self) -> None:
        try:
            self._process = process = _start_client(self._header["mode"])
        except OSError as error:
            self._warn(f"it cannot be started ({error})")
            return
        watchdog = threading.Thread(target=self._watch_start, name="tatara-wandb-start", daemon=True)
        watchdog.start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(self._header, default=str).encode() + b"\n")
            while (line := self._lines.get()) is not None:
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
            process.stdin.close()
        except OSError:
            # The client is gone; `_watch_start` says why where it died at the start.
            watchdog.join()
            self._warn("its client ended early")
        process.wait()
        watchdog.join()

    def _watch_start(self) -> None:
        """Read the client's one line of answer; give it up when that line does not come."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        timer = threading.Timer(START_SECONDS, self._give_up_start)
        timer.daemon = True
        timer.start()
        answer = process.stdout.readline().decode(errors="replace").strip()
        timer.cancel()
        if answer != "ready":
            self._warn(answer or "its client ended while starting")

    def _give_up_start(self) -> None:
        self._warn(f"it did not start in {START_SECONDS:.0f} s")
        self._end_process()

    def _end_process(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()


def _start_client(mode: str) -> "subprocess.Popen[bytes]":
    environment = dict(os.environ) | {"WANDB_MODE": mode, "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    # A client of the user's own in this process must not be shared.
    environment.pop("WANDB_SERVICE", None)
    environment.pop("WANDB_DISABLED", None)
    if mode == "offline":
        # Crash reports would be the only thing that still goes to the network.
        environment["WANDB_ERROR_REPORTING"] = "false"
    # A session of its own, so that Ctrl-C reaches the stage alone and the run is still finished.
    return subprocess.Popen(
        client_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def client_command() -> list[str]:
    """The command line of the client process."""
    # By path and with -P: neither the package nor a module beside the script is imported in its place.
    return [sys.executable, "-P", str(Path(__file__).with_name("wandb_client.py"))]
