import os
import signal
import subprocess
import sys
import time

import pytest

from tatara import interrupts

LOST = """
import os, signal, sys, time
from tatara import interrupts

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)

with interrupts.raised():
    try:
        Deaf()
        print("not heeded", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("heeded", flush=True)
        time.sleep(3)
        print("cleaned up", flush=True)
"""


def test_a_stop_that_was_lost_in_a_finaliser_comes_again_once() -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("\n") == ["not heeded", "heeded", "cleaned up", ""], done.stderr
    assert done.returncode == 0
    assert time.monotonic() - started < 25


@pytest.mark.parametrize("number", interrupts.STOP_SIGNALS)
def test_the_first_signal_is_raised_and_the_next_are_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupts.raised():
        with pytest.raises(interrupts.Interrupted):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
