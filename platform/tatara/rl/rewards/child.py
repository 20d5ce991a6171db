"""The other end of a process that evaluates rewards."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from tatara.errors import ConfigError, TataraError

PATIENCE = 2.0
"""Seconds between the end of a process's pipe and its own."""


class SlowError(TataraError):
    """A process did not answer in time."""


class EndedError(TataraError):
    """A process is gone."""


class Child:
    """A running `tatara.rl.rewards.process`."""

    def __init__(self, rewards: bytes, parent: int, memory: int, seconds: float) -> None:
        """Start it and wait until its rewards are made.

        Args:
            rewards: Pickled mapping of names to configurations.
            parent: Process id of this process.
            memory: Bytes that it may allocate.
            seconds: Time for it to be ready.

        Raises:
            ConfigError: A reward cannot be made.
            TataraError: It did not come up.
        """
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        command = [sys.executable, "-m", "tatara.rl.rewards.process", *map(str, (requests, replies, parent, memory))]
        # It must find what this process finds, a job's working directory among it.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(requests, replies),
                start_new_session=True,
            )
        finally:
            os.close(requests)
            os.close(replies)
        os.set_blocking(self._requests, False)
        self._ended = os.pidfd_open(self._process.pid)
        self._unread = b""
        try:
            self.send(rewards, seconds)
            answer = self.receive(seconds)
        except SlowError:
            self.kill()
            raise TataraError(
                f"a reward process was not ready after {seconds:g} s: its imports are slow, or the machine is busy;"
                " raise scoring.start_seconds"
            ) from None
        except EndedError:
            raise TataraError(f"a reward process {self.kill(PATIENCE)} while it started; its log says why") from None
        if "refused" in answer:
            self.kill()
            raise ConfigError(answer["refused"])

    def send(self, message: bytes, seconds: float = 60.0) -> None:
        """Hand it a pickled request.

        Raises:
            SlowError: It did not take it in time.
            EndedError: It is gone.
        """
        deadline = time.monotonic() + seconds
        data = memoryview(len(message).to_bytes(4, "big") + message)
        while data:
            self._wait(self._requests, select.POLLOUT, deadline)
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise EndedError("is gone") from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """Its next answer.

        Raises:
            SlowError: It did not come in time.
            EndedError: The process is gone.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            self._wait(self._replies, select.POLLIN, deadline)
            part = os.read(self._replies, 1 << 16)
            if not part:
                raise EndedError("is gone")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise EndedError("wrote what is no answer") from None
        return answer

    def kill(self, patience: float = 0.0) -> str:
        """End it and all that it started, and say how it ended.

        Args:
            patience: Seconds to wait for one that is about to end by itself.
        """
        ended = bool(self._poll([(self._ended, select.POLLIN)], patience))
        # Before it is waited for: until then nobody else can get its number.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for descriptor in (self._requests, self._replies, self._ended):
            os.close(descriptor)
        if not ended:
            return "was ended"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        """Until a pipe is ready; an ended process whose copies hold the pipe open counts as gone."""
        ready = self._poll([(descriptor, event), (self._ended, select.POLLIN)], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise SlowError("took too long")
        if descriptor not in ready:
            raise EndedError("is gone")

    @staticmethod
    def _poll(watched: list[tuple[int, int]], seconds: float) -> set[int]:
        poll = select.poll()
        for descriptor, event in watched:
            poll.register(descriptor, event)
        return {descriptor for descriptor, _ in poll.poll(int(seconds * 1000))}
