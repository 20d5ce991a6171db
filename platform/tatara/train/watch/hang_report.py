"""What the ranks of an attempt that hangs left in a directory, and the one line that says it."""

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

BEAT_BYTES = 1280
_STATES = {
    "R": "is running (R)",
    "S": "sleeps (S)",
    "D": "waits for a disk or a device (D)",
    "T": "is stopped (T)",
    "t": "is stopped by a debugger (t)",
    "Z": "is dead (Z)",
    "": "is gone",
}
# Files whose functions wait for other ranks.
_WAITING = (
    "/torch/distributed/",
    "/megatron/core/distributed/",
    "/megatron/core/pipeline_parallel/p2p_communication.py",
)


@dataclass(frozen=True)
class Beat:
    """Where a rank was when it last said so."""

    rank: int
    host: str
    pid: int
    step: int
    """Step that it works on, counted as in the events."""
    where: str
    """What it does, such as ``forward`` or ``gradients``."""

    def encode(self) -> bytes:
        """As a record of fixed size, for a file that is mapped to memory."""
        text = json.dumps([self.rank, self.host[:80], self.pid, self.step, self.where[:80]])
        return text.encode()[: BEAT_BYTES - 1].ljust(BEAT_BYTES)

    @classmethod
    def decode(cls, record: bytes) -> "Beat | None":
        """The opposite of `encode`; None for a record that is not whole."""
        try:
            rank, host, pid, step, where = json.loads(record.decode())
        except ValueError:
            return None
        return cls(rank, host, pid, step, where)


@dataclass(frozen=True)
class Dump:
    """What a rank that found itself hung wrote down."""

    beat: Beat
    function: str
    """Innermost function of interest, as in ``all_reduce`` or ``spin at cases.py:12``."""
    waits: bool
    """Whether that function waits for other ranks."""
    neighbours: Mapping[int, str] = field(default_factory=dict)
    """State of the processes of the ranks on the same host, as in ``/proc/<pid>/stat``; empty for one that is gone."""

    def to_json(self) -> str:
        """As the content of its file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Dump":
        """The opposite of `to_json`."""
        read = json.loads(text)
        neighbours = {int(rank): state for rank, state in read["neighbours"].items()}
        return cls(Beat(**read["beat"]), read["function"], read["waits"], neighbours)


class HangDirectory:
    """The files of one attempt, in a directory that all ranks share."""

    def __init__(self, directory: Path, attempt: str) -> None:
        """Name the files; the directory need not exist.

        Args:
            directory: Shared by all ranks, on whatever host.
            attempt: Of the training run; the same for all ranks, another one after each restart.
        """
        self.directory, self._attempt = directory, attempt

    def beat(self, rank: int) -> Path:
        """Where a rank says all the time where it is."""
        return self.directory / f"beat-{self._attempt}-rank{rank}"

    def dump(self, rank: int, suffix: str = "json") -> Path:
        """What a rank leaves behind that found itself hung."""
        return self.directory / f"hang-{self._attempt}-rank{rank}.{suffix}"

    @property
    def summary(self) -> Path:
        """One line about all ranks."""
        return self.directory / f"hang-{self._attempt}.txt"

    def beats(self, world: int) -> dict[int, Beat]:
        """The last word of every rank that has said one."""
        found = {}
        for rank in range(world):
            with contextlib.suppress(FileNotFoundError):
                beat = Beat.decode(self.beat(rank).read_bytes())
                if beat is not None:
                    found[rank] = beat
        return found

    def dumps(self, world: int) -> dict[int, Dump]:
        """What the ranks have left so far."""
        found = {}
        for rank in range(world):
            with contextlib.suppress(FileNotFoundError):
                found[rank] = Dump.from_json(self.dump(rank).read_text(encoding="utf-8"))
        return found


def neighbours(beats: Iterable[Beat]) -> dict[int, str]:
    """State of the processes of this host's ranks."""
    here = socket.gethostname()
    return {beat.rank: process_state(beat.pid) for beat in beats if beat.host == here}


def process_state(pid: int) -> str:
    """State of a process of this host as one letter (``man 5 proc``); empty when there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name in brackets may hold anything, also brackets.
            return stream.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def innermost(frame: FrameType | None) -> tuple[str, bool]:
    """What a thread is in: the function that says most about it, and whether that one waits for other ranks."""
    if frame is None:
        return "no Python function", False
    outer, found = frame, ""
    while outer is not None and any(part in outer.f_code.co_filename for part in _WAITING):
        # The outermost one of those is what the training code called.
        name = outer.f_code.co_name
        found = found if name in ("wrapper", "<lambda>") and found else name
        if outer.f_back is None:
            break
        outer = outer.f_back
    if found:
        return found, True
    place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    return f"{frame.f_code.co_name} at {place}", False


def summarise(world: int, dumps: Mapping[int, Dump], beats: Mapping[int, Beat]) -> str:
    """One line about a hang: who waits, and above all who does not.

    Args:
        world: Number of ranks.
        dumps: Of the ranks that noticed, by rank.
        beats: The last word of every rank that has said one.
    """
    step = min((dump.beat.step for dump in dumps.values()), default=0)
    parts = [*_told((rank, _where(dump)) for rank, dump in sorted(dumps.items()) if dump.waits)]
    parts += [f"{_process(dump.beat)} is {_where(dump)}" for _, dump in sorted(dumps.items()) if not dump.waits]
    unheard = []
    for rank in range(world):
        if rank in dumps:
            continue
        beat = beats.get(rank)
        if beat is None:
            unheard.append((rank, "never said where it was"))
            continue
        seen = [dump.neighbours[rank] for dump in dumps.values() if rank in dump.neighbours]
        state = _STATES.get(seen[-1], f"has the state {seen[-1]}") if seen else "does not answer"
        parts.append(f"{_process(beat)} {state} and was last in '{beat.where}' of step {beat.step}")
    return f"hang at step {step}: " + "; ".join([*parts, *_told(unheard)])


def _where(dump: Dump) -> str:
    if dump.waits:
        return f"in {dump.function} ({dump.beat.where})"
    return f"in {dump.function} ('{dump.beat.where}')"


def _told(said: Iterable[tuple[int, str]]) -> list[str]:
    """The same said of several ranks, once."""
    by_text = sorted(said, key=lambda each: each[1])
    lines = []
    for text, group in groupby(by_text, key=lambda each: each[1]):
        ranks = [rank for rank, _ in group]
        verb = text if text.startswith("never") else f"wait{'' if len(ranks) > 1 else 's'} {text}"
        lines.append(f"rank{'s' if len(ranks) > 1 else ''} {spans(ranks)} {verb}")
    return lines


def spans(numbers: Sequence[int]) -> str:
    """Rising numbers as people write them: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(
        str(first) if first == last else f"{first}, {last}" if last == first + 1 else f"{first}-{last}"
        for first, last in runs
    )


def _process(beat: Beat) -> str:
    return f"rank {beat.rank} (pid {beat.pid} on {beat.host})"


def event_of(line: str, world: int, dumps: Mapping[int, Dump]) -> dict[str, Any]:
    """The fields of the ``hang`` event."""
    return {
        "step": min((dump.beat.step for dump in dumps.values()), default=0),
        "message": line,
        "waiting": sorted(rank for rank, dump in dumps.items() if dump.waits),
        "elsewhere": sorted(rank for rank, dump in dumps.items() if not dump.waits),
        "silent": [rank for rank in range(world) if rank not in dumps],
    }
