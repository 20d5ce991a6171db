"""The hang guard on real gloo ranks that stop, loop, sleep, or are only slow."""

import multiprocessing
import os
import re
import signal
import socket
import time

import pytest

from model.ranks import PRELOADED
from tatara.train.watch.events import EventReader
from tatara.train.watch.hang import EXIT_CODE, HangGuard
from tatara.train.watch.hang_report import Beat, Dump, HangDirectory, process_state, spans, summarise
from train.watch import hang_cases

WORLD = 3
HOST = re.escape(socket.gethostname())
CULPRITS = {"spin": 1, "sleep": 1, "stay": 0, "hold_the_lock": 2, "dawdle": 1}


class Hanging:
    """Ranks of which one behaves oddly."""

    def __init__(self, directory, behaviour):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.directory, self._culprit, self._behaviour = directory, CULPRITS[behaviour], behaviour
        arguments = (WORLD, str(directory), self._culprit, behaviour)
        self._ranks = [context.Process(target=hang_cases.rank, args=(rank, *arguments)) for rank in range(WORLD)]
        for process in self._ranks:
            process.start()
        self.pid = self._ranks[self._culprit].pid

    def end(self, deadline):
        """Wait until all ranks that can end have, and see what they left."""
        if self._behaviour == "stay":
            step = self.directory / "step"
            while not step.exists() or int(step.read_text()) < hang_cases.HANG_AT:
                assert time.monotonic() < deadline, "the ranks do not train"
                time.sleep(0.02)
            os.kill(self.pid, signal.SIGSTOP)
        for rank, process in enumerate(self._ranks):
            if not (self._behaviour == "stay" and rank == self._culprit):
                process.join(max(0.0, deadline - time.monotonic()))
        self.codes = [process.exitcode for process in self._ranks]
        events = EventReader(self.directory / "events.jsonl").read()
        self.events = [event for event in events if event["kind"] == "hang"]

    def kill(self):
        for process in self._ranks:
            process.kill()
            process.join()


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """All of them at the same time: they mostly wait."""
    started = {name: Hanging(tmp_path_factory.mktemp(name), name) for name in CULPRITS}
    deadline = time.monotonic() + 180
    try:
        for name in sorted(started, key=lambda name: name != "stay"):
            started[name].end(deadline)
    finally:
        for case in started.values():
            case.kill()
    return started


@pytest.mark.parametrize("behaviour", ["spin", "sleep"])
def test_a_rank_that_does_not_come_is_named_with_its_function(cases, behaviour):
    found = cases[behaviour]
    assert found.codes == [EXIT_CODE] * WORLD
    (event,) = found.events
    expected = (
        rf"hang at step 6: ranks 0, 2 wait in all_reduce \(gradients\); "
        rf"rank 1 \(pid {found.pid} on {HOST}\) is in {behaviour} at hang_cases.py:\d+ \('forward'\)"
    )
    assert re.fullmatch(expected, event["message"])
    assert (event["step"], event["waiting"], event["elsewhere"], event["silent"]) == (6, [0, 2], [1], [])
    files = found.directory / "hang"
    assert f"in {behaviour}" in (files / "hang-a1-rank1.txt").read_text()
    assert '"gloo:all_reduce"' in (files / "hang-a1-rank0.fr.json").read_text()
    # Below Python only py-spy sees.
    assert ("clock_nanosleep" in (files / "hang-a1-rank1.txt").read_text()) == (behaviour == "sleep")
    assert (files / "hang-a1.txt").read_text() == event["message"] + "\n"


def test_a_stopped_rank_is_named_with_its_state(cases):
    found = cases["stay"]
    assert found.codes == [None, EXIT_CODE, EXIT_CODE]
    (event,) = found.events
    step = event["step"]
    assert re.fullmatch(
        rf"hang at step {step}: ranks 1, 2 wait in all_reduce \(gradients\); "
        rf"rank 0 \(pid {found.pid} on {HOST}\) is stopped \(T\) and was last in '(forward|gradients)' "
        rf"of step ({step - 1}|{step})",
        event["message"],
    )
    assert event["silent"] == [0]


def test_a_rank_that_keeps_pythons_lock_ends_by_the_last_resort(cases):
    found = cases["hold_the_lock"]
    assert found.codes == [EXIT_CODE, EXIT_CODE, 1]
    assert found.events[0]["silent"] == [2]
    assert "was last in 'forward' of step 6" in found.events[0]["message"]
    assert "in hold_the_lock" in (found.directory / "hang" / "hang-a1-rank2.last.txt").read_text()


def test_a_slow_run_is_left_alone(cases):
    found = cases["dawdle"]
    assert found.codes == [0] * WORLD
    assert found.events == []
    assert list((found.directory / "hang").iterdir()) == []


def test_a_beat_may_allow_more_time(tmp_path):
    with HangGuard(0.2, tmp_path, 0, 1, grace_seconds=0.1) as guard:
        guard.beat(0, "load")
        guard.beat(1, "export", limit_seconds=60)
        time.sleep(0.6)
        guard.beat(2, "forward")


def test_who_is_on_another_host_is_named_too():
    beats = {rank: Beat(rank, f"h{rank // 2}", 100 + rank, 7, "forward") for rank in range(6)}
    dumps = {
        0: Dump(Beat(0, "h0", 100, 8, "gradients"), "all_reduce", True, {0: "S", 1: ""}),
        2: Dump(Beat(2, "h1", 102, 8, "gradients"), "all_reduce", True, {2: "S", 3: "T"}),
        5: Dump(Beat(5, "h2", 105, 8, "backward"), "recv", True, {5: "S"}),
    }
    del beats[4]
    assert summarise(6, dumps, beats) == (
        "hang at step 8: ranks 0, 2 wait in all_reduce (gradients); rank 5 waits in recv (backward); "
        "rank 1 (pid 101 on h0) is gone and was last in 'forward' of step 7; "
        "rank 3 (pid 103 on h1) is stopped (T) and was last in 'forward' of step 7; rank 4 never said where it was"
    )


def test_what_is_written_is_read_back(tmp_path):
    files = HangDirectory(tmp_path, "a2")
    beat = Beat(3, "a host", 77, 12, 'a "where"' * 20)
    files.beat(3).write_bytes(beat.encode())
    files.beat(1).write_bytes(beat.encode()[:9])
    dump = Dump(beat, "spin at a.py:3", False, {3: "R"})
    files.dump(3).write_text(dump.to_json())
    (read,) = files.beats(4).values()
    assert (read.rank, read.pid, read.step, read.where) == (3, 77, 12, beat.where[:80])
    assert files.dumps(4) == {3: dump}
    assert process_state(os.getpid()) == "R"
    assert process_state(2**22 + 1) == ""
    assert spans([0, 1, 2, 5, 6, 9]) == "0-2, 5, 6, 9"
