"""A GRPO run whose processes are killed again and again: does it end as one that was left alone does?

    python tests/benchmarks/bench_grpo_chaos.py --model SFT_MODEL --prompts train.jsonl --eval validation.jsonl

Starts ``tatara grpo`` as a user would. A seeded plan kills (SIGKILL; now and then a pause by SIGSTOP) rollout workers,
reward workers, the buffer, ranks of the learner, and the driver itself, which is then started again with the same
command. At the end the lineage must show each batch once and each prompt once, the versions must keep to the staleness
bound, and the accuracy on held-out prompts must be that of an undisturbed run of the same seed. Exits with 1 if not.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any

import psutil

HERE = Path(__file__).resolve()
PLATFORM = HERE.parents[2] / "platform"
sys.path[:0] = [str(HERE.parents[1]), str(PLATFORM)]

from benchmarks.bench_grpo import conversations, grpo_job  # noqa: E402
from benchmarks.grpo_blows import KINDS, TITLES, Blow, plan  # noqa: E402
from rl.grpo_lineage import faults  # noqa: E402
from tatara.train.watch.events import EventReader  # noqa: E402

LOOK_SECONDS = 0.1


@dataclass
class Chaos:
    """A run under fire.

    Attributes:
        root: Artifact store of its own.
        job: File of the job.
        blows: What is sent to it, in order.
        patience: Seconds without a trained batch after which it counts as hanging.
        longest: Longest time between two trained batches, in seconds.
    """

    root: Path
    job: Path
    blows: Sequence[Blow]
    patience: float
    longest: float = 0.0
    starts: int = 0
    highest: int = 0
    _driver: "subprocess.Popen[bytes]" = field(init=False)
    _due: float | None = None
    _sent: int = 0
    _events: EventReader | None = None
    _last: float = 0.0
    _stopped: list[tuple[float, psutil.Process]] = field(default_factory=list)
    _gone: list[tuple[Blow, set[int]]] = field(default_factory=list)

    def run(self) -> str | None:
        """Run to the end; returns why it did not get there."""
        self._start()
        self._last = time.time()
        try:
            while self._driver.poll() is None:
                self._follow()
                self._strike()
                self._look()
                if time.time() - self._last > self.patience:
                    return f"no batch was trained for {self.patience:g} s: {self._tail()}"
                time.sleep(LOOK_SECONDS)
            self._follow()
            return None if self._driver.returncode == 0 else f"exit status {self._driver.returncode}: {self._tail()}"
        finally:
            for _, process in self._stopped:
                _send(process, SIGCONT)
            if self._driver.poll() is None:
                self._driver.kill()
                self._driver.wait()

    def _start(self) -> None:
        self.starts += 1
        with open(self.root.parent / "log", "ab") as log:
            command = [sys.executable, "-m", "tatara", "grpo", "--config", str(self.job)]
            self._driver = subprocess.Popen(command, cwd=PLATFORM, stdout=log, stderr=subprocess.STDOUT)

    def _tail(self) -> str:
        return "".join((self.root.parent / "log").read_text(errors="replace").splitlines(keepends=True)[-8:])

    def _follow(self) -> None:
        """Read which batches were trained since."""
        if self._events is None:
            path = next(self.root.glob("work/grpo-*/events.jsonl"), None)
            self._events = None if path is None else EventReader(path)
        for event in self._events.read() if self._events is not None else ():
            if event["kind"] == "rollout_batch":
                self._trained(event["step"], event["time"])

    def _trained(self, step: int, at: float) -> None:
        if self._sent:
            latest = self.blows[self._sent - 1]
            latest.gap = max(latest.gap, at - max(self._last, latest.at))
        self.longest, self._last = max(self.longest, at - self._last), max(at, self._last)
        for blow in self.blows[: self._sent]:
            if blow.trained is None and at > blow.at:
                blow.trained = at - blow.at
            if blow.further is None and at > blow.at and step > self.highest:
                blow.further = at - blow.at
        self.highest = max(self.highest, step)

    def _strike(self) -> None:
        """Send what is due."""
        if self._sent == len(self.blows) or self.highest < self.blows[self._sent].batch:
            return
        blow, now = self.blows[self._sent], time.time()
        self._due = self._due or now + blow.delay
        if now < self._due:
            return
        if blow.kind == "driver":
            blow.at = time.time()
            self._driver.kill()
            self._driver.wait()
            self._start()
            blow.back = time.time() - blow.at
        else:
            found = self._processes(blow.kind)
            if not found:
                return  # It is being started: it is hit as soon as it is there.
            victim = random.Random(blow.delay).choice(found)
            blow.at = time.time()
            _send(victim, blow.signal)
            if blow.signal == SIGSTOP:
                self._stopped.append((now + blow.pause, victim))
            else:
                self._gone.append((blow, {each.pid for each in found}))
        self._sent, self._due = self._sent + 1, None

    def _look(self) -> None:
        """Let paused processes go on, and see whether killed ones were replaced."""
        now = time.time()
        for until, process in [each for each in self._stopped if each[0] <= now]:
            _send(process, SIGCONT)
            self._stopped.remove((until, process))
        for blow, before in list(self._gone):
            if any(each.pid not in before for each in self._processes(blow.kind)):
                blow.back = time.time() - blow.at
                self._gone.remove((blow, before))

        for blow in self.blows[: self._sent]:
            if not blow.told and blow.further is not None and (blow.back is not None or blow.signal == SIGSTOP):
                blow.told = True
                print(f"[{time.strftime('%H:%M:%S')}] {blow}", flush=True)

    def _processes(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that are below the driver."""
        return sorted(_below(self._driver.pid, TITLES[kind]), key=lambda process: process.pid)


def _below(pid: int, title: str) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(title):
                    yield process


def _send(process: psutil.Process, signal: Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal)


def one_run(args: argparse.Namespace, blows: Sequence[Blow], scratch: Path) -> tuple[Chaos, list[str], dict[str, Any]]:
    """A run, what is wrong with it, and its figures."""
    root = scratch / "root"
    if not root.exists():
        command = [sys.executable, "-m", "tatara", "import", "--root", root, "--name", "m", "--path", args.model]
        subprocess.run(command, cwd=PLATFORM, check=True, stdout=subprocess.DEVNULL)
        conversations(root, args)
    job = grpo_job(args, root, args.seed)
    job["config"] |= {"checkpoint_interval": args.checkpoint_interval, "max_worker_failures": -1, "max_failures": -1}
    (scratch / "grpo.yaml").write_text(json.dumps(job))
    run = Chaos(root, scratch / "grpo.yaml", blows, args.patience)
    wrong = run.run()
    if wrong is not None:
        return run, [wrong], {}
    artifact = max((root / "checkpoint").glob("tatara@*"))
    expected = {"batches": args.steps, "groups": args.groups, "size": args.group_size, "staleness": args.staleness}
    found = faults(artifact, prompts=len(Path(args.prompts).read_text().splitlines()), **expected)
    return run, found, json.loads((artifact / "manifest.json").read_text())["metrics"]


def summary(run: Chaos) -> None:
    """Print the times of recovery by kind."""
    print(f"longest wait for a batch {run.longest:.1f} s; the driver was started {run.starts} times")
    for kind in KINDS:
        mine = [blow for blow in run.blows if blow.kind == kind and blow.signal == SIGKILL and blow.at]
        for name in ("back", "trained", "further", "gap"):
            values = [value for blow in mine if (value := getattr(blow, name)) is not None]
            if values:
                print(f"{kind:8} {name:8} median {statistics.median(values):5.1f} s, most {max(values):5.1f} s "
                      f"({len(values)} kills)")  # fmt: skip


def main() -> None:
    """Run undisturbed and disturbed, and say whether they ended alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an SFT model in Hugging Face format")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stops", type=float, default=0.1, help="share of them that only pause a process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: 5 for each kill")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds without a batch that count as a hang")
    parser.add_argument("--baseline", type=float, help="accuracy of the undisturbed run, where it is known")
    parser.add_argument("--tolerance", type=float, default=0.05, help="of the accuracy")
    parser.add_argument("--scratch", type=Path, help="where to work; kept, and a run that is there goes on")
    integers = {"groups": 32, "group-size": 8, "max-tokens": 8, "warmup": 0, "eval-every": 10, "eval-prompts": 500,
                "staleness": 1, "sequence-length": 128, "micro-batch-size": 32, "concurrent": 128, "engines": 1,
                "checkpoint-interval": 5}  # fmt: skip
    for name, default in integers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=3e-4)
    args = parser.parse_args()
    args.steps = args.steps or 5 * args.kills
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with contextlib.ExitStack() as stack:
        scratch = args.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tatara-chaos-")))
        wrong: list[str] = []
        baseline = args.baseline
        if baseline is None:
            (scratch / "calm").mkdir(parents=True, exist_ok=True)
            _, wrong, figures = one_run(args, (), scratch / "calm")
            baseline = figures.get("pass@1")
            print(f"undisturbed: {figures} {wrong or ''}", flush=True)
        (scratch / "chaos").mkdir(parents=True, exist_ok=True)
        run, found, figures = one_run(args, plan(args.kills, args.steps, args.stops, args.seed), scratch / "chaos")
    summary(run)
    print(f"disturbed: {figures}")
    wrong += found
    unsent = [blow for blow in run.blows if not blow.at]
    wrong += [f"{len(unsent)} kills were never sent"] if unsent else []
    if figures and baseline is not None and abs(figures["pass@1"] - baseline) > args.tolerance:
        wrong.append(f"accuracy {figures['pass@1']:.3f}, undisturbed {baseline:.3f}")
    print(f"VERDICT: {'FAILED' if wrong else 'survived'} {len(run.blows) - len(unsent)} kills")
    for fault in wrong:
        print(f"  {fault}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
