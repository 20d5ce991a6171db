"""Decontamination: speed, and what is found of planted benchmark items, against datatrove's n-gram filter.

Items of a benchmark, whole and with some of their words replaced, are planted in part of the documents. Each system
gets the same documents in one process of one thread, and is asked to find its whole benchmark.

    python tests/benchmarks/bench_decontaminate.py [BENCHMARK CORPUS.jsonl.gz] [--runs 3]

datatrove is installed into an environment of its own. Its index comes from its own hashing of the
questions (``find_query_ngrams``), its n-gram is its default of 12 words; the tokeniser is its default for English.
"""

import argparse
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sample import sample

SHARES = (0.0, 0.05, 0.1, 0.2)
"""Words of a planted item that are replaced."""


def corpus(path: str, items: list[str], megabytes: float) -> tuple[list[str], list[float | None]]:
    """Documents, and how much of the item planted in each was edited (None where there is none)."""
    generator = random.Random(0)
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        whole = [json.loads(line)["text"] for line in file]
    pieces = [text[start : start + 4000] for text in whole for start in range(0, len(text), 4000)]
    pieces = pieces[: int(megabytes * 1e6 / 4000)]
    words = " ".join(pieces[:50]).split()
    planted: list[float | None] = []
    for number, piece in enumerate(pieces):
        share = SHARES[number // 5 % len(SHARES)] if number % 5 == 0 else None
        if share is not None:
            item = " ".join(
                generator.choice(words) if generator.random() < share else word
                for word in generator.choice(items).split()
            )
            pieces[number] = f"{piece[:2000]}\n{item}\n{piece[2000:]}"
        planted.append(share)
    return pieces, planted


def tatara(benchmark: str, directory: Path) -> Callable[[list[str]], list[bool]]:
    """Tatara's step, ready to run."""
    from tatara.data.decontaminate.config import DecontaminateConfig
    from tatara.data.decontaminate.step import Decontaminate
    from tatara.data.document import Document

    step = Decontaminate(DecontaminateConfig(benchmarks={"bench": benchmark}), directory)
    step.prepare()
    step.apply([Document("warm", "compile and load", "")])

    def run(texts: list[str]) -> list[bool]:
        documents = [Document(str(number), text, "") for number, text in enumerate(texts)]
        return [
            verdict is not None
            for start in range(0, len(documents), 500)
            for verdict in step.apply(documents[start : start + 500])
        ]

    return run


def datatrove(items: list[str], directory: Path) -> Callable[[list[str]], list[bool]]:
    """datatrove's filter, ready to run."""
    import numpy as np
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.text import ngrams, simplify_text

    config = NGramsDecontConfig(find_query_ngrams=True)
    peer = NGramsDecontFilter(str(directory), config)
    hashes = set()
    for item in items:  # What its indexer does with a query; that one wants lighteval and its data sets.
        words = peer.tokenizer.word_tokenize(simplify_text(item, config.norm_config))
        hashes |= {peer.hash_func(" ".join(gram)) for gram in ngrams(words, config.n_grams)}
    np.asarray(sorted(hashes), config.hash_config.np_descr).tofile(directory / "bench.index.hashes")
    peer.filter(Document(text="load the index and the tokeniser", id="warm"))

    def run(texts: list[str]) -> list[bool]:
        return [peer.filter(Document(text=text, id=str(number))) is not True for number, text in enumerate(texts)]

    return run


def measure(name: str, run: Callable[[list[str]], list[bool]], file: Path, runs: int) -> None:
    """Print speed, recall by edited share, and false positives."""
    texts, planted = json.loads(file.read_text())
    size = sum(len(text.encode()) for text in texts)
    times, found = [], []
    for _ in range(runs):
        started = time.process_time()
        found = run(texts)
        times.append(time.process_time() - started)
    recall = {
        share: statistics.mean(hit for hit, own in zip(found, planted, strict=True) if own == share) for share in SHARES
    }
    wrong = sum(hit for hit, own in zip(found, planted, strict=True) if own is None)
    shown = ", ".join(f"{share:.0%}: {value:.3f}" for share, value in recall.items())
    speeds = ", ".join(f"{size / 1e6 / seconds:.2f}" for seconds in sorted(times))
    print(
        f"{name}: {speeds} MB per CPU-second; found by share of words replaced: {shown}; wrongly: {wrong}", flush=True
    )


def main() -> None:
    """Run both on the same documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?")
    parser.add_argument("corpus", nargs="?")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--peer-megabytes", type=float, default=2.0)
    parser.add_argument("--as-peer", nargs=2, metavar=("ITEMS", "TEXTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        if options.as_peer:
            items = json.loads(Path(options.as_peer[0]).read_text())
            measure("datatrove", datatrove(items, directory), Path(options.as_peer[1]), options.runs)
            return
        if options.corpus is None:
            options.benchmark, options.corpus = map(str, sample("gsm8k/test.jsonl.gz", "docs-cpp/docs.jsonl.gz"))
        sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))
        from tatara.data.decontaminate.benchmarks import read_items

        items = [item.texts[0][1] for item in read_items("bench", options.benchmark)]
        items = [item for item in items if len(item.split()) >= 20]
        (directory / "items.json").write_text(json.dumps(items))
        for name, megabytes in (("all", options.megabytes), ("few", options.peer_megabytes)):
            (directory / f"{name}.json").write_text(json.dumps(corpus(options.corpus, items, megabytes)))
        measure("tatara", tatara(options.benchmark, directory), directory / "all.json", options.runs)
        if not options.without_peer:
            from peers import python_with

            peer = python_with("datatrove-filters", ("datatrove[processing,io]==0.10.1", "spacy"))
            measure("tatara, same part", tatara(options.benchmark, directory), directory / "few.json", options.runs)
            files = [str(directory / "items.json"), str(directory / "few.json")]
            command = [peer, __file__, options.benchmark, options.corpus, "--runs", str(options.runs)]
            subprocess.run([*command, "--as-peer", *files], check=True)


if __name__ == "__main__":
    main()
