"""Wall-clock to a level of held-out accuracy: our loop against TRL's GRPOTrainer on the same two cores.

    python tests/benchmarks/bench_grpo.py --model SFT_MODEL --prompts train.jsonl --eval validation.jsonl [--rounds 3]

Both start from the same model in Hugging Face format and draw from the same prompts (lines of JSON with ``messages``
and ``answer``), with the same group size, batch, response length, learning rate and reward: 1 for exactly the answer.
They run in turns, each in processes of its own; evaluation and start-up are off both clocks. TRL runs in the way that
is fastest for it here (``--peer-generation``, ``--peer-threads``, ``--peer-processes``; ``--compare`` tries all of them
for a few steps and prints their seconds per step).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "platform")]

from benchmarks.peers import cache_directory  # noqa: E402

TRL = ("trl==1.16.0", "accelerate==1.15.0", "datasets==5.2.0", "multiprocess==0.70.19")
"""What TRL needs beyond what Tatara's own environment holds, torch, transformers and vLLM in the same versions."""
WAYS = tuple(itertools.product(("generate", "static", "continuous", "vllm"), ((1, 1), (2, 1), (1, 2))))
"""TRL's generation, with (threads, processes)."""


@dataclass(frozen=True)
class Run:
    """What one training run took.

    Attributes:
        seconds: On the clock, of all steps.
        reached: Of these, until the target was measured; None: it was not reached.
        steps: Of the optimizer.
        generate: Seconds of generation.
        train: Seconds of everything else.
        tokens: Of responses.
        cpu: CPU seconds of the steps, of one process; on a busy machine they say more than the clock.
        levels: (seconds, held-out accuracy) of each evaluation.
    """

    seconds: float
    reached: float | None
    steps: int
    generate: float
    train: float
    tokens: int
    cpu: float
    levels: tuple[tuple[float, float], ...]


def lines(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """What a contestant prints: lines of JSON; anything else is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"'):
            yield json.loads(line)


def collect(read: Iterator[dict[str, Any]], first: int = 0) -> Run:
    """Add up a run's lines; steps before ``first`` do not count.

    Raises:
        SystemExit: It ended without a summary.
    """
    steps: list[dict[str, Any]] = []
    levels: list[tuple[float, float]] = []
    for line in read:
        if "accuracy" in line:
            levels.append((line["seconds"], line["accuracy"]))
        elif "generate" in line and line["step"] > first:
            steps.append(line)
        elif "done" in line:
            sums = {
                name: sum(step[name] for step in steps) for name in ("seconds", "generate", "train", "tokens", "cpu")
            }
            return Run(sums["seconds"], line["reached"], len(steps), sums["generate"], sums["train"],
                       int(sums["tokens"]), sums["cpu"], tuple(levels))  # fmt: skip
    sys.exit("a contestant ended without a summary; run its command alone to see why")


def peer_python() -> Path:
    """The interpreter of an environment with TRL on top of this one's packages; made when it is not there.

    Raises:
        subprocess.CalledProcessError: pip failed; its output says why.
    """
    directory = cache_directory() / f"env-trl-{sys.version_info.major}{sys.version_info.minor}"
    python = directory / "bin" / "python"
    done = directory / "installed"
    if not done.exists() or done.read_text() != "\n".join(TRL):
        print(f"installing TRL into {directory}", flush=True)
        venv.create(directory, with_pip=True, clear=True)
        packages = directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (packages / "tatara.pth").write_text(sysconfig.get_path("purelib"))
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *TRL], check=True)
        done.write_text("\n".join(TRL))
    return python


def peer(args: argparse.Namespace, seed: int, generation: str, threads: int, processes: int, *more: str) -> Run:
    """TRL, in its own environment and process."""
    python = args.peer_python or peer_python()
    command = [
        str(python), str(HERE.with_name("peer_trl.py")), "--model", args.model, "--prompts", args.prompts,
        "--eval", args.eval, "--groups", str(args.groups), "--group-size", str(args.group_size), "--max-tokens",
        str(args.max_tokens), "--target", str(args.target), "--lr", str(args.lr), "--warmup", str(args.warmup),
        "--steps", str(args.steps), "--eval-every", str(args.eval_every), "--eval-prompts", str(args.eval_prompts),
        "--loss", args.loss, "--seed", str(seed), "--generation", generation, "--threads", str(threads),
        "--processes", str(processes), *more,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        return collect(lines(process), first=1 if more else 0)


def ours(args: argparse.Namespace, seed: int) -> Run:
    """Tatara, by the commands that a user would give; evaluations are on its clock, start-up is not."""
    with tempfile.TemporaryDirectory(prefix="tatara-bench-") as scratch:
        root = Path(scratch) / "root"
        tatara = [sys.executable, "-m", "tatara"]
        shared = {"cwd": HERE.parents[2] / "platform", "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([*tatara, "import", "--root", root, "--name", "m", "--path", args.model], **shared)
        conversations(root, args)
        job = Path(scratch) / "grpo.yaml"
        job.write_text(json.dumps(grpo_job(args, root, seed)))
        subprocess.run([*tatara, "grpo", "--config", job], **shared)
        return read_run(root / "checkpoint" / "tatara@1", args)


def conversations(root: Path, args: argparse.Namespace) -> None:
    """The prompts as an artifact, each split what it is."""
    from tatara.artifact import Draft, Store

    attempt = Store(root).begin(
        Draft(kind="conversations", name="p", version=1, stage="dialogues", fingerprint="0" * 64)
    )
    for split, path in (("train", args.prompts), ("validation", args.eval)):
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        kept = [{"id": row["id"], "messages": row["messages"], "metadata": {"answer": row["answer"]}} for row in rows]
        (attempt.path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    attempt.commit({}, 1.0)


def grpo_job(args: argparse.Namespace, root: Path, seed: int) -> dict[str, Any]:
    """The job file."""
    stage = {"name": "only", "prompts": {"prompts": 1}, "groups_per_batch": args.groups, "group_size": args.group_size}
    sampling = {"max_response_tokens": args.max_tokens, "temperature": 0.0}
    # DAPO's token-level loss without its sampling, as the peer has it.
    algorithm = {"preset": "dapo", "dynamic_sampling": False, "overlong_penalty": 0.0, "clip_high": 0.2}
    config = {
        "steps": args.steps, "seed": seed, "staleness": args.staleness, "sequence_length": args.sequence_length,
        "micro_batch_size": args.micro_batch_size, "stages": [stage | {"max_response_tokens": args.max_tokens}],
        "algorithm": algorithm, "rewards": {"correct": {"kind": "exact"}},
        "optimizer": {"learning_rate": args.lr}, "schedule": {"warmup_steps": args.warmup},
        "evaluation": {"interval": args.eval_every, "prompts": args.eval_prompts, "sampling": sampling},
        "rollout": {"concurrent": args.concurrent, "engines": args.engines},
    }  # fmt: skip
    inputs = {"checkpoint": "checkpoint/m", "prompts": "conversations/p"}
    return {"name": "tatara", "root": str(root), "inputs": inputs, "config": config}


def read_run(artifact: Path, args: argparse.Namespace) -> Run:
    """What a run recorded of itself."""
    report = json.loads((artifact / "_stage" / "report.json").read_text())
    lanes = {lane["kind"]: lane["spans"] for lane in report["rl_timeline"]}
    began = next(start for start, _, what in lanes["rollout"] if what == "generate")
    # The v-th synchronisation ends with version v at the engines' door.
    synced = [start + seconds - began for start, seconds, what in lanes["learner"] if what == "sync"]
    levels = [(synced[max(each["version"], 1) - 1] if each["version"] else 0.0, each["pass@1"])
              for each in report["rl_evaluations"]]  # fmt: skip
    reached = next((seconds for seconds, level in levels if level >= args.target), None)
    spent: dict[str, float] = {}
    for _, seconds, what in lanes["rollout"] + lanes["learner"]:
        spent[what] = spent.get(what, 0.0) + seconds
    figures = report["rl_figures"]
    return Run(synced[-1], reached, len(synced), spent["generate"], spent["train"], int(figures["rollout_tokens"]),
               0.0, tuple(levels))  # fmt: skip


def compare(args: argparse.Namespace) -> None:
    """Print what a step of TRL costs in each way of running it; the first step warms up and does not count."""
    columns = ("generation", "threads", "processes", "s/step", "generate", "train", "tokens/s", "CPU s")
    print("".join(f"{column:>12}" for column in columns))
    for generation, (threads, processes) in WAYS:
        if generation == "vllm" and processes > 1:
            continue
        more = ("--steps", "6", "--target", "2")
        run = peer(args, 0, generation, threads, processes, *more)
        each = [part / run.steps for part in (run.seconds, run.generate, run.train)]
        figures = [*each, run.tokens / run.seconds, run.cpu / run.steps]
        print(
            f"{generation:>12}{threads:>12}{processes:>12}" + "".join(f"{figure:>12.2f}" for figure in figures),
            flush=True,
        )


def report(name: str, seed: int, run: Run) -> None:
    """Print a run."""
    reached = f"{run.reached:.0f} s" if run.reached is not None else "not reached"
    print(
        f"{name:8} seed {seed}: {reached}; {run.steps} steps, {run.seconds / run.steps:.2f} s each "
        f"(generate {run.generate / run.seconds:.0%}), {run.tokens / run.seconds:,.0f} tokens/s, "
        f"last {run.levels[-1][1]:.1%}",
        flush=True,
    )


def contestants(args: argparse.Namespace) -> dict[str, Callable[[int], Run]]:
    """Who is measured, by name: a seed in, a run out."""
    found: dict[str, Callable[[int], Run]] = {
        "tatara": lambda seed: ours(args, seed),
        "trl": lambda seed: peer(args, seed, args.peer_generation, args.peer_threads, args.peer_processes),
    }
    return {name: run for name, run in found.items() if name in args.contestants}


def main() -> None:
    """Run the contestants in turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an SFT model in Hugging Face format")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--rounds", type=int, default=3, help="seeds, one after the other")
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--warmup", type=int, default=0, help="steps")
    parser.add_argument("--steps", type=int, default=300, help="at most")
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--eval-prompts", type=int, default=500)
    parser.add_argument("--loss", default="dapo")
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--micro-batch-size", type=int, default=32)
    parser.add_argument("--concurrent", type=int, default=128)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--contestants", type=lambda text: text.split(","), default=["tatara", "trl"])
    parser.add_argument("--peer-generation", default="vllm", choices=["generate", "static", "continuous", "vllm"])
    parser.add_argument("--peer-threads", type=int, default=2)
    parser.add_argument("--peer-processes", type=int, default=1)
    parser.add_argument("--peer-python", type=Path, help="of an environment with TRL; made where it is left out")
    parser.add_argument("--compare", action="store_true", help="only try the ways of running TRL")
    args = parser.parse_args()
    if args.compare:
        compare(args)
        return
    found = contestants(args)
    runs: dict[str, list[Run]] = {name: [] for name in found}
    for seed, (name, run) in itertools.product(range(args.rounds), found.items()):
        runs[name].append(run(seed))
        report(name, seed, runs[name][-1])
    medians = {name: statistics.median(run.reached or float("inf") for run in each) for name, each in runs.items()}
    for name, seconds in medians.items():
        print(
            f"{name}: median {seconds:.0f} s to {args.target:.0%}" if seconds < float("inf") else f"{name}: not reached"
        )
    if {"tatara", "trl"} <= set(medians):
        print(f"ratio: {medians['trl'] / medians['tatara']:.2f}")


if __name__ == "__main__":
    main()
