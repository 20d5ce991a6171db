"""The classifier of ``quality`` and ``topics`` against fastText, on the same samples, one thread each.

``python bench_quality.py --data DIRECTORY``: the directory is that of $TATARA_SAMPLE_DATA. fastText is installed into
an environment of its own, unless ``--peer`` names an interpreter that has it. Tasks: encyclopedia or web page; words in
order or shuffled; subject of a problem.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from peers import python_with
from sample import sample

Rows = list[tuple[str, str]]

_SETTINGS = ((5, 0.1), (5, 0.5), (25, 0.5))
"""fastText's epochs and learning rate: its defaults, and those its tutorial comes to."""


def texts(folder: Path) -> Iterator[str]:
    """Every file of a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "SOURCE.md":
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            yield raw.decode("utf-8", errors="replace")


def paragraphs(folder: Path) -> list[str]:
    """Paragraphs of 200 to 3,000 characters, each once."""
    pieces = {piece.strip() for text in texts(folder) for piece in re.split(r"\n\s*\n|\n(?= = )", text)}
    return sorted(piece for piece in pieces if 200 <= len(piece) <= 3000)


def tasks(data: Path) -> dict[str, Rows]:
    """Task to (class, text), shuffled."""
    rng = random.Random(0)
    wiki = [re.sub(r" @(.)@ ", r"\1", text) for text in paragraphs(data / "wikitext2-valid-test")]
    wiki += paragraphs(data / "instructlab-knowledge-docs")
    pages = [json.loads(line)["text"] for text in texts(data / "c4-sample") for line in text.splitlines()]
    web = [line for page in pages for line in page.split("\n") if 200 <= len(line) <= 3000]
    every = sorted({" ".join(text.split()) for text in wiki + web})
    rng.shuffle(every)
    half = len(every) // 2
    shuffled = [" ".join(rng.sample(text.split(), len(text.split()))) for text in every[half:]]
    problems = [json.loads(line) for text in texts(data / "math") for line in text.splitlines() if line.strip()]
    out = {
        "wiki or web": [("good", text) for text in wiki] + [("bad", text) for text in web],
        "in order or shuffled": [("good", text) for text in every[:half]] + [("bad", text) for text in shuffled],
        "subject of a problem": [(str(row["type"]).replace(" ", "_"), str(row["problem"])) for row in problems],
    }
    for rows in out.values():
        rng.shuffle(rows)
    return out


def auc(scores: list[float], positive: list[bool]) -> float:
    """Probability that a positive one scores higher; by ranks."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    total, count, place = 0.0, 0, 0
    while place < len(order):
        end = place
        while end < len(order) and scores[order[end]] == scores[order[place]]:
            end += 1
        tied = sum(positive[row] for row in order[place:end])
        total += tied * (place + end + 1) / 2
        count += tied
        place = end
    return (total - count * (count + 1) / 2) / (count * (len(order) - count))


def report(name: str, rows: Rows, predicted: list[dict[str, float]], trained: float, seconds: float) -> float:
    """Print one line; returns documents per second."""
    right = sum(max(each, key=each.__getitem__) == label for each, (label, _) in zip(predicted, rows, strict=True))
    size = sum(len(text.encode()) for _, text in rows) / 1e6
    binary = "good" in predicted[0]
    area = (
        f"AUC {auc([each['good'] for each in predicted], [label == 'good' for label, _ in rows]):.4f}, "
        if binary
        else ""
    )
    rate = len(rows) / seconds
    print(f"  {name:28} {area}accuracy {right / len(rows):.4f}, training {trained:.1f} s, ", end="")
    print(f"{rate:,.0f} documents/s, {size / seconds:.0f} MB/s", flush=True)
    return rate


def ours(training: Rows, test: Rows) -> None:
    """Train and measure Tatara's classifier."""
    from tatara.data.quality.config import TrainingConfig
    from tatara.data.quality.model import train

    samples: dict[str, dict[bytes, str]] = {label: {} for label in sorted({label for label, _ in training})}
    for label, text in training:
        samples[label][hashlib.blake2b(text.encode(), digest_size=16).digest()] = text
    train(samples, TrainingConfig(epochs=1))  # compiles
    started = time.process_time()
    model = train(samples, TrainingConfig())
    trained = time.process_time() - started
    started = time.process_time()
    found = [
        row
        for start in range(0, len(test), 512)
        for row in model.probabilities([t for _, t in test[start : start + 512]])
    ]
    seconds = time.process_time() - started
    predicted = [dict(zip(model.classes, row.tolist(), strict=True)) for row in found]
    report("tatara", test, predicted, trained, seconds)


def peer(training: Rows, test: Rows) -> None:
    """Train and measure fastText: word bigrams, as many buckets, one thread."""
    import fasttext

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as stream:
        stream.writelines(f"__label__{label} {' '.join(text.split())}\n" for label, text in training)
        stream.flush()
        for epochs, rate in _SETTINGS:
            started = time.process_time()
            model = fasttext.train_supervised(
                stream.name, wordNgrams=2, epoch=epochs, lr=rate, thread=1, dim=16, bucket=1 << 20, seed=1, verbose=0
            )
            trained = time.process_time() - started
            started = time.process_time()
            found = [model.f.predict(" ".join(text.split()) + "\n", -1, 0.0, "strict") for _, text in test]
            seconds = time.process_time() - started
            predicted = [{name.removeprefix("__label__"): score for score, name in each} for each in found]
            report(f"fasttext, {epochs} epochs, rate {rate}", test, predicted, trained, seconds)


def main() -> None:
    """Run every task; with ``--as-peer``, the peer's side of one, read from standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("TATARA_SAMPLE_DATA"))
    parser.add_argument("--as-peer", action="store_true")
    arguments = parser.parse_args()
    if arguments.as_peer:
        training, test = json.load(sys.stdin)
        peer(training, test)
        return
    for name, rows in tasks(Path(arguments.data or sample(".")[0])).items():
        cut = len(rows) * 7 // 10
        training, test = rows[:cut], rows[cut:]
        print(f"{name}: {len(training)} samples to train on, {len(test)} to test", flush=True)
        ours(training, test)
        python = python_with("fasttext", ["fasttext-numpy2-wheel==0.9.2"])
        subprocess.run([python, __file__, "--as-peer"], input=json.dumps([training, test]), text=True, check=True)


if __name__ == "__main__":
    main()
