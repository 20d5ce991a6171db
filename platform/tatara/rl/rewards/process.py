"""A process that evaluates reward functions, so that one that hangs, dies or leaks takes nobody with it.

It reads pickled requests from one pipe (four bytes of length, then the pickle) and answers with lines of JSON on
another. Its main thread calls the functions: time limits that work by signals hold.
"""

import ctypes
import json
import math
import os
import pickle
import resource
import signal
import sys
import time
from typing import Any

from tatara.errors import TataraError
from tatara.rl.rewards.completion import Completion, one_line
from tatara.rl.rewards.functions import Function, build_functions

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Serve requests until the pipe is closed.

    Args:
        arguments: Descriptors of the pipe to read and the one to write, process id of the parent, bytes of memory.
    """
    requests, replies, parent, memory = (int(argument) for argument in arguments)
    _end_with(parent)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for descriptor in (requests, replies):
        os.set_inheritable(descriptor, False)
    # What a function prints belongs into the log.
    os.dup2(2, 1)
    own = os.getpid()
    try:
        functions = build_functions(_read(requests))
    except TataraError as error:
        _write(replies, {"refused": str(error)})
        return
    _write(replies, {"ready": sorted(functions)})
    while (request := _read(requests)) is not None:
        completion, names = request
        for name in names:
            reply = _evaluate(functions[name], name, completion)
            if os.getpid() != own:
                # The function forked and the copy came back too: it must not answer.
                os._exit(0)
            _write(replies, reply)


def _evaluate(function: Function, name: str, completion: Completion) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        outcome: dict[str, Any] = {"value": _number(function(completion))}
    except TataraError as error:
        outcome = {"error": one_line(str(error))}
    # Whatever a user's function raises, SystemExit and KeyboardInterrupt too, is an answer about this completion.
    except BaseException as error:
        outcome = {"error": one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)}
    return {"name": name, "seconds": time.perf_counter() - began, **outcome}


def _number(value: Any) -> float:
    """A returned value as a float: Python's and numpy's numbers, booleans, tensors of one element."""
    if not hasattr(value, "__float__"):
        shown = one_line(repr(value), 60)
        raise TataraError(f"returned {shown} ({type(value).__name__}), not a number")
    number = float(value)
    if not math.isfinite(number):
        raise TataraError(f"returned {number}")
    return number


def _end_with(parent: int) -> None:
    """Have the kernel end this process with the one that started it, even while it is stuck in native code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _read(descriptor: int) -> Any:
    header = _read_exactly(descriptor, 4)
    return pickle.loads(_read_exactly(descriptor, int.from_bytes(header, "big"))) if header else None


def _read_exactly(descriptor: int, size: int) -> bytes:
    """So many bytes; none at the end of the pipe."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(descriptor, min(size - len(parts), 1 << 20))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def _write(descriptor: int, reply: dict[str, Any]) -> None:
    data = memoryview(json.dumps(reply).encode() + b"\n")
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main(sys.argv[1:])
