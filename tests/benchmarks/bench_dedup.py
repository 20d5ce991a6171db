"""Fuzzy deduplication end to end against datatrove, data-juicer, text-dedup, datasketch, rensa and gaoya.

    python tests/benchmarks/bench_dedup.py [--documents 100000] [--systems tatara datatrove ...] [--rounds 3]

Makes the corpus (see `dedup_corpus`), installs every peer into an environment of its own under --cache, runs the
systems in turns and prints medians: CPU seconds of all processes (Ray's daemons included), wall seconds, the largest
process's and the whole tree's peak memory, recall of pairs with a Jaccard similarity of 0.8 or more, and precision:
the share of dropped near-duplicates that are that similar.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from dedup_corpus import default_sources, generate
from dedup_systems import SYSTEMS

REQUIREMENTS = {
    "datatrove": ["datatrove[processing,io]==0.10.1", "spacy"],
    "text-dedup": ["text-dedup==0.4.0"],
    "data-juicer": ["py-data-juicer[distributed]==1.6.0"],
    "libraries": ["datasketch", "rensa", "gaoya", "pyarrow"],
}
_INTERVAL = 0.2
_MEMORY_EVERY = 5  # samples; proportional sizes are dear to ask for
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def interpreter(cache: Path, name: str) -> str:
    """The Python of an environment, which is installed if it is missing."""
    if name == "this":
        return sys.executable
    directory = cache / f"{name}-env"
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS[name]], check=True)
        (directory / "complete").touch()
    return str(python)


def measure(command: list[str], log: Path) -> dict[str, float]:
    """Run a command; CPU and wall seconds and peak memory (MB) of it and all that it starts.

    Orphans are adopted, so that daemons count. CPU time is the larger of what the kernel says of processes that were
    waited for and what was last seen of each process: some parents never wait for their children.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen: dict[tuple[int, float], float] = {}
    largest = tree = turn = 0
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        while process.poll() is None:
            total, biggest = _sample(seen, turn % _MEMORY_EVERY == 0)
            largest, tree, turn = max(largest, biggest), max(tree, total), turn + 1
            time.sleep(_INTERVAL)
    wall = time.monotonic() - started
    _reap(seen)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed, see {log}:\n{log.read_text(errors='replace')[-2000:]}")
    return {"cpu": max(waited, sum(seen.values())), "wall": wall, "largest": largest / 1e6, "tree": tree / 1e6}


def _sample(seen: dict[tuple[int, float], float], memory: bool) -> tuple[int, int]:
    total = biggest = 0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            seen[process.pid, process.create_time()] = times.user + times.system
            size = process.memory_full_info().pss if memory else 0
            total, biggest = total + size, max(biggest, size)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total, biggest


def _reap(seen: dict[tuple[int, float], float]) -> None:
    """End what the command left behind."""
    deadline = time.monotonic() + 15
    while left := psutil.Process().children(recursive=True):
        _sample(seen, False)
        for process in left if time.monotonic() > deadline - 10 else []:
            process.kill()
        psutil.wait_procs(left, timeout=0.5)
        if time.monotonic() > deadline:
            break


def judge(corpus: Path, kept: set[str]) -> dict[str, float]:
    """Recall of similar pairs and of exact copies, and precision."""
    truth = json.loads((corpus / "truth.json").read_text())

    def caught(pair: list[Any]) -> bool:
        return not (f"{pair[0]:08d}" in kept and f"{pair[1]:08d}" in kept)

    similar = [pair for pair in truth["pairs"] if pair[2] >= 0.8]
    found = sum(map(caught, similar))
    all_found = sum(map(caught, truth["pairs"]))
    return {
        "recall": found / len(similar),
        "precision": found / max(all_found, 1),
        "copies": sum(map(caught, truth["copies"])) / max(len(truth["copies"]), 1),
        "kept": len(kept),
    }


def run(system: str, corpus: Path, cache: Path, number: int) -> dict[str, float]:
    """One run of one system."""
    output = cache / "out" / system
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    python = interpreter(cache, SYSTEMS[system][1])
    script = str(Path(__file__).parent / "dedup_systems.py")
    found = measure([python, script, system, str(corpus), str(output)], cache / f"{system}-{number}.log")
    subprocess.run([python, script, system, str(corpus), str(output), "--survivors"], check=True)
    found.update(judge(corpus, set((output / "survivors.txt").read_text().split("\n"))))
    shutil.rmtree(output)
    return found


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Fuzzy deduplication against other systems.")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--systems", nargs="+", choices=sorted(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "tatara-bench")
    options = parser.parse_args()
    os.environ.update(
        HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
    )
    options.cache.mkdir(parents=True, exist_ok=True)
    corpus = options.cache / f"corpus-{options.documents}"
    generate(corpus, options.documents, default_sources(), options.files)
    results: dict[str, list[dict[str, float]]] = {system: [] for system in options.systems}
    for number in range(options.rounds):
        for system in options.systems:
            results[system].append(run(system, corpus, options.cache, number))
            print(system, json.dumps({key: round(value, 3) for key, value in results[system][-1].items()}), flush=True)
    print("\n| system | CPU s | wall s | largest process MB | all MB | recall | precision | copies |\n|" + "---|" * 8)
    for system, runs in results.items():
        median = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        print(
            f"| {system} | {median['cpu']:.1f} | {median['wall']:.1f} | {median['largest']:,.0f} | "
            f"{median['tree']:,.0f} | {median['recall']:.4f} | {median['precision']:.3f} | {median['copies']:.4f} |"
        )


if __name__ == "__main__":
    main()
