"""Rewards that misbehave, each in its own way."""

import os
import re
import sys
import time
from pathlib import Path

COUNT = 3.5


def length(completion):
    return len(completion.response)


def with_bonus(completion, bonus):
    return len(completion.response) + bonus


def numpy_number(completion):
    import numpy

    return numpy.float32(0.5)


def prints(completion):
    print("a page of output " * 100)
    sys.stdout.flush()
    return True


def raises(completion):
    raise ValueError("several\nlines")


def leaves(completion):
    sys.exit(3)


def not_a_number(completion):
    return float("nan")


def infinite(completion):
    return float("-inf")


def nothing(completion):
    return None


def text(completion):
    return "1.0"


def loops_in_c(completion):
    # Catastrophic backtracking: no signal handler and no other thread runs before it ends.
    return bool(re.match(r"(a+)+$", "a" * 60 + "b"))


def sleeps(completion):
    time.sleep(600)


def kills_itself(completion):
    os.kill(os.getpid(), 9)


def leaves_hard(completion):
    os._exit(7)


def forks(completion):
    # Both copies come back.
    os.fork()
    return 2.5


def leaves_a_child(completion):
    if os.fork() == 0:
        time.sleep(600)
    return 1.5


def fills_memory(completion):
    return len(bytearray(2 << 30))


def closes_everything(completion):
    os.closerange(3, 100)
    return 1.0


def once_only(completion):
    """Kills its process the first time that it is called for a directory."""
    mark = Path(completion.prompt.metadata["mark"])
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return 1.0


async def asynchronous(completion):
    return 1.0


def two_arguments(completion, other):
    return 1.0


def slow_at_first(completion, mark):
    """Hangs the first process that comes along, and no other."""
    if not Path(mark).exists():
        Path(mark).touch()
        time.sleep(600)
    return 1.0
