"""What a synchronisation of weights costs: seconds from the learner's first tensor to the last engine's proof.

A learner (one rank of the trainer) publishes random Llamas of several sizes to one and two engines through Ray's
object store, while each engine generates. Per size and number of engines: seconds to publish (gather, pack, store),
seconds from the news to an engine's proof (fetch, load, probe), the part of it in which the engine generates nothing,
and how far trainer and engine are apart. Medians over several synchronisations; the first, which warms up, is left out.

    python tests/benchmarks/bench_weight_sync.py [--sizes 2M 25M 100M 500M] [--engines 1 2] [--dtype float32] ...
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

from engine.tiny_llama import write_tiny_llama  # noqa: E402
from rl.ledger_world import make_stage  # noqa: E402

SHAPES = {
    "2M": {"num_hidden_layers": 4, "hidden_size": 192, "intermediate_size": 512},
    "25M": {"num_hidden_layers": 8, "hidden_size": 448, "intermediate_size": 1408},
    "100M": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 2304},
    "500M": {"num_hidden_layers": 20, "hidden_size": 1408, "intermediate_size": 4224},
}
VOCABULARY = {"2M": 2048, "25M": 4096, "100M": 8192, "500M": 16384}
PROBES = tuple(tuple(range(start, start + 32)) for start in (1, 100, 200, 300))


def write_model(size: str, dtype: str, directory: Path) -> int:
    """Write a random model, and return how many parameters it has."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    write_tiny_llama(directory, VOCABULARY[size])
    shape = SHAPES[size] | {
        "num_attention_heads": SHAPES[size]["hidden_size"] // 64,
        "num_key_value_heads": 1,
        "head_dim": 64,
    }
    config = AutoConfig.from_pretrained(directory, **shape, dtype=dtype)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def write_prompts_for(directory: Path, count: int) -> Path:
    """More prompts than the engines get through."""
    from tatara.rl.prompts import write_prompts
    from tatara.rl.record import Prompt

    made = [Prompt(f"p{n}", "sums", ({"role": "user", "content": "?"},), tuple(range(1, 17))) for n in range(count)]
    write_prompts(directory / "prompts.jsonl", made)
    return directory / "prompts.jsonl"


def measure(options: argparse.Namespace, size: str, engines: int, directory: Path) -> dict[str, Any]:
    """All synchronisations of one model with some engines."""
    import ray

    from rl.sync_learner import ENVIRONMENT, SyncLearner
    from tatara.rl.buffer import start_buffer
    from tatara.rl.client import BufferClient
    from tatara.rl.ledger.book import BufferConfig
    from tatara.rl.rollout_worker import RolloutTask, start_rollout_worker
    from tatara.rl.weight_sync import TOLERANCES, compare_probes

    parameters = write_model(size, options.dtype, directory / "model")
    prompts = write_prompts_for(directory, 64)
    # So stale that the engines never run out of work.
    config = BufferConfig(stages=(make_stage(group_size=8, max_response_tokens=200),), staleness=1000)
    name = f"buffer-{size}-{engines}"
    buffer = start_buffer(name, config, prompts, directory / "state", "bench")
    learner_options = {"num_cpus": 0, "runtime_env": {"env_vars": ENVIRONMENT}}
    learner = ray.remote(SyncLearner).options(**learner_options).remote(str(directory / "model"))
    tasks = [
        RolloutTask(
            f"engine-{size}-{engines}-{number}",
            name,
            str(directory / "model"),
            {"dtype": options.dtype, "kv_cache_bytes": 256 << 20, "max_model_len": 256},
            concurrent=options.concurrent,
            in_flight=options.in_flight,
        )
        for number in range(engines)
    ]
    workers = [start_rollout_worker(task, num_cpus=0) for task in tasks]
    running = [worker.run.remote() for worker in workers]
    client = BufferClient(name, options.timeout)
    published, differences = [], []
    for version in range(options.syncs + 1):
        done = ray.get(learner.publish.remote(name, version, PROBES, options.bucket, 1e-3), timeout=options.timeout)
        deadline = time.monotonic() + options.timeout
        while len(probes := client.probes(version)) < engines:
            ray.get(ray.wait(running, timeout=0.02)[0])
            if time.monotonic() > deadline:
                raise SystemExit(f"only {sorted(probes)} proved version {version} within {options.timeout:g} s")
        trainer = ray.get(learner.logprobs.remote(PROBES), timeout=options.timeout)
        differences.append(compare_probes(trainer, probes, TOLERANCES[options.dtype], version).largest)
        published.append(done)
        time.sleep(options.between)
    told = [ray.get(worker.status.remote(), timeout=options.timeout) for worker in workers]
    syncs = [sync for each in told for sync in each["syncs"][1:]]
    seconds = sum(each["seconds"].get("generate", 0.0) for each in told)
    for actor in (*workers, learner, buffer):
        ray.kill(actor)
    return {
        "parameters": parameters,
        "bytes": published[-1].bytes,
        "publish": statistics.median(each.seconds for each in published[1:]),
        "receive": statistics.median(sync.seconds for sync in syncs),
        "pause": statistics.median(sync.pause for sync in syncs),
        "probe": statistics.median(sync.probe for sync in syncs),
        "difference": max(differences),
        "tokens": sum(each["tokens"] for each in told) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--engines", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--in-flight", choices=["continue", "recompute", "drain"], default="continue")
    parser.add_argument("--syncs", type=int, default=5)
    parser.add_argument("--between", type=float, default=1.0, help="seconds of generating after each synchronisation")
    parser.add_argument("--concurrent", type=int, default=32, help="rollouts in progress per engine")
    parser.add_argument("--bucket", type=int, default=64 << 20, help="bytes of a bucket")
    parser.add_argument("--timeout", type=float, default=600.0)
    options = parser.parse_args()

    from tatara import cluster

    cluster.connect(address="local", num_cpus=4)
    columns = (
        "model",
        "parameters",
        "engines",
        "MB",
        "publish s",
        "receive s",
        "pause s",
        "probe s",
        "tokens/s",
        "apart",
    )
    print(*(f"{name:>11}" for name in columns))
    for size in options.sizes:
        for engines in options.engines:
            with tempfile.TemporaryDirectory() as directory:
                found = measure(options, size, engines, Path(directory))
            times = " ".join(f"{found[name]:>11.3f}" for name in ("publish", "receive", "pause", "probe"))
            model = f"{size:>11} {found['parameters']:>11,} {engines:>11} {found['bytes'] / 1e6:>11.1f}"
            print(f"{model} {times} {found['tokens']:>11,.0f} {found['difference']:>11.1e}", flush=True)
    cluster.disconnect()


if __name__ == "__main__":
    main()
