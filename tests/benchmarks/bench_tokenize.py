"""Tokenising and training a tokenizer: speed per core against Hugging Face tokenizers, and whether the results agree.

Both tokenise the same documents, in alternating rounds, with the stage's own encoders: Hugging Face's batch mode on one
thread, and on all cores, which counts by the CPU time that it takes. Medians of CPU time are compared, for other work
on the machine shall not count. gigatoken remembers words that it has seen; ``cold`` is a new encoder in each round.

    python tests/benchmarks/bench_tokenize.py [DOCUMENTS.jsonl.gz ...] [--vocab_size 32000] [--rounds 5]
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sample import sample


def read(path: Path, limit: int) -> list[str]:
    """Texts of a JSONL file, of ``limit`` bytes in all at most."""
    texts, size = [], 0
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1].encode())
            if size >= limit:
                break
    return texts


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds that an action takes, threads included, and its result."""
    started = time.process_time()
    result = action()
    return time.process_time() - started, result


def measure_encoding(serialised: str, texts: list[str], rounds: int) -> dict[str, float]:
    """MB/s per core of each way to tokenise."""
    from tokenizers import Tokenizer

    from tatara.data.tokenizer.engine import large_strings, open_encoder

    array = large_strings(texts)
    some = texts[: max(1, len(texts) // 8)]
    threaded = Tokenizer.from_str(serialised)
    threaded.encode_special_tokens = True
    spent: dict[str, list[float]] = {"cold": [], "warm": [], "huggingface": [], "huggingface, all cores": []}
    for _ in range(rounds):
        open_encoder.cache_clear()
        fast, slow = open_encoder(serialised, "gigatoken"), open_encoder(serialised, "huggingface")
        spent["cold"].append(seconds(lambda fast=fast: fast.encode(array))[0])
        taken, mine = seconds(lambda fast=fast: fast.encode(array))
        spent["warm"].append(taken)
        taken, theirs = seconds(lambda slow=slow: slow.encode(large_strings(some)))
        spent["huggingface"].append(taken)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        spent["huggingface, all cores"].append(seconds(lambda: threaded.encode_batch_fast(some))[0])
        assert np.array_equal(mine[1][: len(some)], theirs[1])
        assert np.array_equal(mine[0][: len(theirs[0])], theirs[0])
    sizes = {name: sum(len(text.encode()) for text in (some if name[0] == "h" else texts)) / 1e6 for name in spent}
    return {name: sizes[name] / statistics.median(values) for name, values in spent.items()}


TRAINING = """
import json, sys, time
sys.path.insert(0, sys.argv[4])
from bench_tokenize import read, seconds, train_with
from pathlib import Path
texts = [text for path in sys.argv[5:] for text in read(Path(path), int(sys.argv[3]))]
train_with(sys.argv[1], texts[0][:2000].split("\\n"), 300)
taken, vocabulary = seconds(lambda: train_with(sys.argv[1], texts, int(sys.argv[2])))
print(json.dumps({"seconds": taken, "vocabulary": vocabulary, "bytes": sum(len(text.encode()) for text in texts)}))
"""


def train_with(system: str, texts: list[str], vocab_size: int) -> dict[str, int]:
    """Train on texts with ``tatara`` or ``huggingface``; returns the vocabulary."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from tatara.data.tokenizer.splits import END_OF_TEXT, SPLITS
    from tatara.data.tokenizer.training import count_words, train

    split = SPLITS["qwen3.5"]
    if system == "tatara":
        return dict(train(count_words(texts, split), vocab_size, "qwen3.5").get_vocab())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return dict(tokenizer.get_vocab())


def measure_training(paths: list[Path], vocab_size: int, limit: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of training, each in a process of its own, and the share of the vocabulary that agrees."""
    found: dict[str, list[dict[str, Any]]] = {"tatara": [], "huggingface": []}
    here = str(Path(__file__).resolve().parent)
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(rounds):
        for system, results in found.items():
            command = [sys.executable, "-c", TRAINING, system, str(vocab_size), str(limit), here, *map(str, paths)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    mine, theirs = (set(found[system][0]["vocabulary"]) for system in found)
    spent = {system: statistics.median(item["seconds"] for item in results) for system, results in found.items()}
    return {
        **spent,
        "ratio": spent["huggingface"] / spent["tatara"],
        "megabytes": found["tatara"][0]["bytes"] / 1e6,
        "vocabulary_in_common": len(mine & theirs) / len(theirs),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", type=Path)
    parser.add_argument("--vocab_size", type=int, default=32_000)
    parser.add_argument("--bytes", type=int, default=20_000_000, help="of each file")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from tatara.data.tokenizer.splits import SPLITS
    from tatara.data.tokenizer.training import count_words, train

    for path in arguments.documents or sample("eltec-eng/novels.jsonl.gz", "docs-cpp/docs.jsonl.gz"):
        texts = read(path, arguments.bytes)
        trained = train(count_words(texts, SPLITS["qwen3.5"]), arguments.vocab_size, "qwen3.5")
        speeds = measure_encoding(trained.to_str(), texts, arguments.rounds)
        shown = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
        ratios = ", ".join(f"{name} {speeds[name] / speeds['huggingface']:.0f}x" for name in ("cold", "warm"))
        print(f"{path.name}: MB/s per core: {shown}; {ratios}; tokens identical", flush=True)
        result = measure_training([path], arguments.vocab_size, arguments.bytes, max(1, arguments.rounds // 2))
        print(
            f"{path.name}: training {arguments.vocab_size:,} on {result['megabytes']:.1f} MB: "
            f"{result['tatara']:.2f} CPU-s, Hugging Face {result['huggingface']:.2f}: {result['ratio']:.1f}x; "
            f"{result['vocabulary_in_common']:.2%} of the vocabulary in common",
            flush=True,
        )


if __name__ == "__main__":
    main()
