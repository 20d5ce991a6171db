"""Heuristic filters: speed per core against datatrove's, and how far the verdicts agree.

The peer is installed in an environment of its own (see peers.py). Both judge the same documents, one thread each, in
alternating rounds; medians of CPU time are compared, for other work on the machine shall not count. datatrove is
measured with its own word tokenizer (spaCy), and with words split at white space in its place, as we split them.

    python tests/benchmarks/bench_filters.py [DOCUMENTS.jsonl.gz ...] [--rounds 5] [--documents 300] [--record FILE]
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peers import python_with
from sample import sample

PEER = ["datatrove==0.10.1", "spacy", "nltk", "regex"]
FILTERS = ("gopher_quality", "gopher_repetition", "fineweb", "c4_lines")
TOKENIZERS = ("spacy", "whitespace")

WORKER = """
import json, sys, time
from loguru import logger
logger.remove()
from datatrove.data import Document
from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter
from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter
modules = (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter)
spacy = gopher_quality_filter.split_into_words
filters = {
    "gopher_quality": gopher_quality_filter.GopherQualityFilter(),
    "gopher_repetition": gopher_repetition_filter.GopherRepetitionFilter(),
    "fineweb": fineweb_quality_filter.FineWebQualityFilter(char_duplicates_ratio=0.1),
    "c4_lines": c4_filters.C4QualityFilter(
        min_num_sentences=-1, min_words_per_line=5, filter_lorem_ipsum=False, filter_curly_bracket=False
    ),
}
texts = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
print("ready", flush=True)
for line in sys.stdin:
    name, tokenizer = line.split()
    for module in modules:
        module.split_into_words = spacy if tokenizer == "spacy" else lambda text, language: text.split()
    documents = [Document(text=text, id=str(index)) for index, text in enumerate(texts)]
    filters[name].filter(Document(text=texts[0], id="warm"))
    start = time.process_time()
    verdicts = [filters[name].filter(document) for document in documents]
    seconds = time.process_time() - start
    reasons = [None if verdict is True else verdict[1] for verdict in verdicts]
    kept = [document.text for document in documents] if name == "c4_lines" else None
    print(json.dumps({"seconds": seconds, "reasons": reasons, "texts": kept}), flush=True)
"""


def read_texts(paths: Iterable[Path], limit: int) -> list[str]:
    """Up to ``limit`` documents of each file."""
    texts: list[str] = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            found = [json.loads(line)["text"] for _, line in zip(range(limit), file, strict=False)]
        texts += [text for text in found if text.strip()]
    return texts


def our_steps() -> dict[str, Any]:
    """Our filters with the parameters that the peer has."""
    import tatara.data.filters.config as config
    from tatara.data.filters.c4_lines import C4Lines
    from tatara.data.filters.fineweb import FineWeb
    from tatara.data.filters.gopher_quality import GopherQuality
    from tatara.data.filters.gopher_repetition import GopherRepetition

    punctuation = (".", "?", "!", '"', "'")
    return {
        "gopher_quality": GopherQuality(config.GopherQualityConfig(), Path()),
        "gopher_repetition": GopherRepetition(config.GopherRepetitionConfig(), Path()),
        "fineweb": FineWeb(config.FineWebConfig(), Path()),
        "c4_lines": C4Lines(config.C4LinesConfig(terminal_punctuation=punctuation), Path()),
    }


class Peer:
    """datatrove in a process of its own."""

    def __init__(self, python: Path, texts: list[str]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False, encoding="utf-8") as file:
            file.writelines(json.dumps(text) + "\n" for text in texts)
        self._file = file.name
        self._process = subprocess.Popen(
            [python, "-c", WORKER, file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read("ready")

    def run(self, name: str, tokenizer: str) -> dict[str, Any]:
        """Judge all documents once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {tokenizer}\n")
        self._process.stdin.flush()
        return json.loads(self._read("{"))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        os.unlink(self._file)

    def _read(self, beginning: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(beginning):
                return line
        raise RuntimeError("the peer ended early")


def judge(step: Any, texts: list[str]) -> tuple[float, list[str | None], list[str]]:
    """Our seconds, reasons and texts."""
    from tatara.data.document import Document

    step.apply([Document("warm", texts[0], "", language="en")])
    documents = [Document(str(index), text, "", language="en") for index, text in enumerate(texts)]
    start = time.process_time()
    verdicts = step.apply(documents)
    seconds = time.process_time() - start
    return seconds, [verdict and verdict.reason for verdict in verdicts], [document.text for document in documents]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", help="JSON Lines with a text, .gz or not")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=300, help="of each file")
    parser.add_argument("--record", type=Path, help="write what the peer drops (words split at white space)")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))
    texts = read_texts(
        options.paths or sample("c4-sample/c4_demo.jsonl.gz", "docs-rust-book/docs.jsonl.gz"), options.documents
    )
    megabytes = sum(len(text.encode("utf-8", "replace")) for text in texts) / 1e6
    peer, steps = Peer(python_with("datatrove-filters", PEER), texts), our_steps()
    print(f"{len(texts)} documents, {megabytes:.2f} MB, {options.rounds} rounds; MB per second of CPU time, medians")
    recorded: dict[str, dict[str, str]] = {}
    for name in FILTERS:
        ours: list[float] = []
        theirs: dict[str, list[float]] = {tokenizer: [] for tokenizer in TOKENIZERS}
        for _ in range(options.rounds):
            seconds, reasons, changed = judge(steps[name], texts)
            ours.append(megabytes / seconds)
            for tokenizer in TOKENIZERS:
                found = peer.run(name, tokenizer)
                theirs[tokenizer].append(megabytes / found["seconds"])
        recorded[name] = {str(place): reason for place, reason in enumerate(found["reasons"]) if reason}
        same = sum((mine is None) == (other is None) for mine, other in zip(reasons, found["reasons"], strict=True))
        mine = statistics.median(ours)
        line = f"{name:18} ours {mine:7.1f}"
        for tokenizer in TOKENIZERS:
            rate = statistics.median(theirs[tokenizer])
            line += f" | datatrove {tokenizer} {rate:6.2f} (x{mine / rate:.0f})"
        line += f" | same verdict {same}/{len(texts)}, dropped {sum(reason is not None for reason in reasons)}"
        if found["texts"]:
            line += f", same text {sum(a == b for a, b in zip(changed, found['texts'], strict=True))}"
        print(line)
    peer.close()
    if options.record:
        options.record.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
