"""Fuzzy deduplication end to end against datatrove, data-juicer, text-dedup, datasketch, rensa and gaoya.

    python tests/benchmarks/bench_dedup.py [--documents 100000] [--systems tatara datatrove ...] [--rounds 3]

Makes the corpus (see `dedup_corpus`), installs every peer into an environment of its own, runs the
systems in turns and prints medians: CPU seconds of all processes (Ray's daemons included), wall seconds, the largest
process's and the whole tree's peak memory, recall of pairs with a Jaccard similarity of 0.8 or more, and precision:
the share of dropped near-duplicates that are that similar.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from dedup_corpus import default_sources, generate
from dedup_systems import SYSTEMS
from measured import measure
from peers import cache_directory, python_with

REQUIREMENTS = {
    "datatrove": ["datatrove[processing,io]==0.10.1", "spacy"],
    "text-dedup": ["text-dedup==0.4.0"],
    "data-juicer": ["py-data-juicer[distributed]==1.6.0"],
    "libraries": ["datasketch", "rensa", "gaoya", "pyarrow"],
}


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
    environment = SYSTEMS[system][1]
    python = Path(sys.executable) if environment == "this" else python_with(environment, REQUIREMENTS[environment])
    script = str(Path(__file__).parent / "dedup_systems.py")
    took = measure([python, script, system, str(corpus), str(output)], log=cache / f"{system}-{number}.log")
    subprocess.run([python, script, system, str(corpus), str(output), "--survivors"], check=True)
    found = {"cpu": took.cpu, "wall": took.wall, "largest": took.peak_process / 1e6, "tree": took.peak / 1e6}
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
    options = parser.parse_args()
    os.environ.update(
        HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
    )
    cache = cache_directory()
    corpus = cache / f"corpus-{options.documents}"
    generate(corpus, options.documents, default_sources(), options.files)
    results: dict[str, list[dict[str, float]]] = {system: [] for system in options.systems}
    for number in range(options.rounds):
        for system in options.systems:
            results[system].append(run(system, corpus, cache, number))
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
