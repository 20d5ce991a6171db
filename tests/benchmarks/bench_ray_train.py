"""What Ray Train and the trainer around the engine cost: the whole stage against a bare Megatron-core loop.

Both train the same model (about 25 million parameters) on the same batches with two data-parallel ranks of one thread
each; a round is a run of the stage, then a run of the bare loop. Compared is the median time from one step to the next,
with everything that the stage does between steps: reading data, guard, statistics, events, progress, checkpoints.

Then one run in which a rank is killed: seconds from the kill to the next step, and where they go.

    python tests/benchmarks/bench_ray_train.py [--rounds 3] [--steps 40] [--hidden 512] [--layers 6]
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

from benchmarks.pretrain_systems import RANKS, bare, model_spec  # noqa: E402

SKIPPED = 3
"""Steps at the start of each run that are not counted."""


def write_corpus(directory: Path, options: argparse.Namespace) -> None:
    """A tokens artifact of random documents, about 300 tokens in the mean."""
    import numpy as np

    from train.tokens_cases import write_split

    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.3, 0.8, 3000).astype(int), 8, 4 * options.sequence)
    texts = [generator.integers(1, options.vocabulary, length).tolist() for length in lengths]
    directory.mkdir(parents=True)
    write_split(directory, "train", texts, options.sequence)
    write_split(directory, "validation", texts[:50], options.sequence)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    described = {"vocab_size": options.vocabulary, "eos_id": 0, "sequence_length": options.sequence}
    (directory / "tokens.json").write_text(json.dumps(described))


def events(root: Path) -> list[dict[str, Any]]:
    found = list(root.glob("work/pretrain-*/events.jsonl"))
    lines = found[0].read_text().splitlines() if found else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def stage(root: Path, options: argparse.Namespace, kill_at: int | None = None) -> dict[str, Any]:
    """Run the stage; returns the times between steps, of the start, and of a recovery."""
    from tatara import config
    from tatara import stage as stages
    from tatara.artifact import Store
    from tatara.train.pretrain import STAGE, PretrainConfig

    spec = model_spec(options)
    names = ("num_layers", "hidden_size", "ffn_hidden_size", "max_position_embeddings")
    chosen = {f"model.{name}": getattr(spec, name) for name in names} | {
        "steps": options.steps,
        "global_batch_size": options.rows,
        "micro_batch_size": options.rows // RANKS,
        "checkpoint_interval": 5 if kill_at else options.steps,
        "validation_sequences": 0,
        "seed": options.seed,
    }
    seen: list[dict[str, Any]] = []
    told: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        # Looking costs a core some of its time: only where there is something to kill.
        while kill_at and not done.wait(0.02):
            seen[:] = events(root)
            steps = [event for event in seen if event["kind"] == "step"]
            if kill_at and "kill" not in told and steps and steps[-1]["step"] >= kill_at:
                workers = next(event for event in seen if event["kind"] == "started")["workers"]
                told["kill"] = time.time()
                os.kill(workers[-1]["pid"], signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.time()
    try:
        resolved = config.load(PretrainConfig, {}, chosen)
        inputs = {"tokens": Store(str(root)).open("tokens/t")}
        with stages.standalone(STAGE, resolved, inputs=inputs, root=str(root), name="t") as opened:
            STAGE.resolve(STAGE.run)(resolved, opened.stage_run)
            seen[:] = events(root)
    finally:
        done.set()
        thread.join()
    shutil.rmtree(root / "work", ignore_errors=True)
    steps = [event for event in seen if event["kind"] == "step"]
    times = [event["time"] for event in steps]
    result: dict[str, Any] = {
        "seconds": [after - before for before, after in itertools.pairwise(times)][SKIPPED:],
        "inside": [event["seconds"] for event in steps][SKIPPED:],
        "to_workers": next(event["time"] for event in seen if event["kind"] == "started") - started,
        "to_first_step": times[0] - started,
    }
    if "kill" in told:
        resumed = next(event for event in seen if event["kind"] == "resumed")
        after = next(event for event in steps if event["time"] > resumed["time"])
        result["recovery"] = {
            "to_workers_with_state": resumed["time"] - told["kill"],
            "to_next_step": after["time"] - told["kill"],
        }
    return result


def loop(options: argparse.Namespace, rank: int, directory: str, pipe: Any) -> None:
    step, _ = bare(options, rank, directory)
    times = []
    for number in range(options.steps):
        step(number)
        times.append(time.time())
    pipe.send([after - before for before, after in itertools.pairwise(times)][SKIPPED:])


def bare_loop(options: argparse.Namespace) -> list[float]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        here, there = context.Pipe()
        ranks = [context.Process(target=loop, args=(options, rank, directory, there)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        seconds, *_ = [here.recv() for _ in ranks]
        for process in ranks:
            process.join()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=512, help="tokens per row")
    parser.add_argument("--rows", type=int, default=8, help="rows per step over both ranks")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    options.seed, options.micro, options.packed = 1, 0, True
    # The worker computes with its share of the cores, as the bare loop does.
    import tatara.cluster
    from tatara.artifact import Draft, Store

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        draft = Draft(kind="tokens", name="t", version=1, stage="tokenize", fingerprint="0" * 64)
        attempt = Store(str(root)).begin(draft)
        write_corpus(Path(directory) / "tokens", options)
        shutil.copytree(Path(directory) / "tokens", attempt.path, dirs_exist_ok=True)
        attempt.commit({}, 1.0)
        options.tokens = str(Path(directory) / "tokens")
        tatara.cluster.connect(num_cpus=2)
        rounds = []
        for number in range(options.rounds):
            ours = stage(root, options)
            theirs = bare_loop(options)
            rounds.append((statistics.median(ours["seconds"]), statistics.median(theirs)))
            inside = statistics.median(ours["inside"])
            print(
                f"round {number + 1}: stage {rounds[-1][0] * 1e3:.1f} ms per step ({inside * 1e3:.1f} inside), "
                f"bare loop {rounds[-1][1] * 1e3:.1f} ms; start-up {ours['to_workers']:.1f} s to workers with a model, "
                f"{ours['to_first_step']:.1f} s to the first step",
                flush=True,
            )
        killed = stage(root, options, kill_at=12)["recovery"]
        tatara.cluster.disconnect()
    print(f"{model_spec(options).parameter_count() / 1e6:.1f}M parameters, {options.rows} x {options.sequence} tokens")
    print(f"ratio of step times, stage / bare loop: {statistics.median(o / t for o, t in rounds):.3f}")
    print(
        f"recovery after SIGKILL of a rank: {killed['to_next_step']:.1f} s to the next step, of it "
        f"{killed['to_workers_with_state']:.1f} s until the workers stand with the checkpoint loaded"
    )


if __name__ == "__main__":
    main()
