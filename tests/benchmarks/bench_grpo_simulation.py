"""The simulated loop against the real one: calibrated on some runs, it predicts these and others.

    python tests/benchmarks/bench_grpo_simulation.py --model SFT_MODEL --prompts train.jsonl --eval validation.jsonl

The model and the prompts are those of `bench_grpo.py`. Each setting is a run of its own, without evaluation; those that
have a star are what speeds, lengths and times are taken from, the others only say how many engines, rollouts and groups
there are. ``--keep DIRECTORY`` keeps the figures of every run and reads those that are there instead of running again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "platform")]

from benchmarks.bench_grpo import conversations, grpo_job  # noqa: E402

if TYPE_CHECKING:
    from tatara.rl.simulation.calibration import Compared, MeasuredRun

BAR = 0.1
"""Largest error that counts as right: of speeds over the measurement, of shares in shares."""
SHOWN = ("batches_per_second", "utilisation", "generate", "train", "wait")


@dataclass(frozen=True)
class Setting:
    """What is varied between runs.

    Attributes:
        staleness: The bound.
        engines: Rollout workers.
        groups: In a batch.
        concurrent: Rollouts of an engine at a time.
        calibrates: Whether the model is told what this run measured.
    """

    staleness: int
    engines: int
    groups: int
    concurrent: int
    calibrates: bool

    @property
    def name(self) -> str:
        """In one word."""
        return f"s{self.staleness}-e{self.engines}-g{self.groups}-c{self.concurrent}"


SETTINGS = (
    Setting(0, 1, 32, 128, True),
    Setting(1, 1, 32, 128, True),
    Setting(2, 1, 32, 128, False),
    Setting(1, 1, 16, 64, True),
    Setting(0, 1, 16, 64, False),
    Setting(2, 1, 16, 64, False),
    Setting(0, 2, 32, 128, False),
    Setting(1, 2, 32, 128, False),
)


def measure(args: argparse.Namespace, setting: Setting) -> "MeasuredRun":
    """Run the loop by the commands that a user would give, and read what it says of itself."""
    from tatara.rl.simulation.calibration import read_run

    with tempfile.TemporaryDirectory(prefix="tatara-bench-") as scratch:
        kept = Path(args.keep or scratch) / f"{setting.name}.json"
        if not kept.exists():
            root = Path(scratch) / "root"
            tatara = [sys.executable, "-m", "tatara"]
            shared: dict[str, Any] = {"cwd": HERE.parents[2] / "platform", "check": True, "stdout": subprocess.DEVNULL}
            subprocess.run([*tatara, "import", "--root", root, "--name", "m", "--path", args.model], **shared)
            conversations(root, args)
            given = {"groups": setting.groups, "concurrent": setting.concurrent, "engines": setting.engines}
            told = argparse.Namespace(**{**vars(args), **given, "staleness": setting.staleness})
            job = Path(scratch) / "grpo.yaml"
            job.write_text(json.dumps(grpo_job(told, root, args.seed)))
            subprocess.run([*tatara, "grpo", "--config", job], **shared)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes((root / "checkpoint" / "tatara@1" / "rl" / "simulation.json").read_bytes())
        return read_run(kept)


def predict(run: "MeasuredRun", told: "list[MeasuredRun]") -> "list[Compared]":
    """A run's figures beside those that the model makes of other runs."""
    from tatara.rl.simulation.calibration import compare
    from tatara.rl.simulation.events import simulate

    return [each for each in compare(run, simulate(run.told_by(told).loop(), 60)) if each.name in SHOWN]


def main() -> None:
    """Measure every setting, predict it, and print how far off that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an SFT model in Hugging Face format")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--micro-batch-size", type=int, default=32)
    parser.add_argument("--keep", help="directory for the figures of the runs")
    parser.add_argument("--only", type=lambda text: text.split(","), help="settings by name, such as s1-e1-g32-c128")
    args = parser.parse_args()
    args.warmup, args.eval_every, args.eval_prompts = 0, 0, 1
    runs = {each: measure(args, each) for each in SETTINGS if args.only is None or each.name in args.only}
    told = [run for each, run in runs.items() if each.calibrates]
    if not told:
        sys.exit("none of these settings calibrates the model")
    loop = told[0].told_by(told).loop()
    print(
        f"engine step {loop.engine.start * 1e3:.2f} ms + {loop.engine.each * 1e6:.1f} us per response, learner "
        f"{loop.learner.fixed * 1e3:.0f} ms + {loop.learner.per_token * 1e6:.1f} us per token; full speed for "
        f"{loop.cores} of them at a time"
    )
    print(f"{'':16}" + "".join(f"{name:>28}" for name in SHOWN))
    worst = 0.0
    for setting, run in runs.items():
        compared = {each.name: each for each in predict(run, told)}
        cells = [
            f"{each.measured:.3f} {each.predicted:.3f} {each.off:+.1%}" for each in map(compared.get, SHOWN) if each
        ]
        worst = max(worst, *(abs(each.off) for each in compared.values()))
        print(f"{setting.name + ('*' if setting.calibrates else ''):16}" + "".join(f"{cell:>28}" for cell in cells))
    print(f"measured, predicted, error; largest {worst:.1%}, {'within' if worst <= BAR else 'beyond'} {BAR:.0%}")


if __name__ == "__main__":
    main()
