"""A corpus of real text with planted near-duplicates whose Jaccard similarity is known.

    python tests/benchmarks/dedup_corpus.py OUTPUT --documents 100000 [--source DIRECTORY ...] [--files 8]

Documents are pieces of text found on this machine (the sample data that $TATARA_SAMPLE_DATA names, else the
documentation that comes with Python). Every fifth is a copy of another one with some words replaced, so that the
Jaccard similarity of their sets of word 5-grams is spread evenly over 0.5 to 1; every twentieth is an exact copy.
OUTPUT gets ``parquet/*.parquet`` and ``jsonl/*.jsonl`` (columns ``id`` and ``text``) and ``truth.json``: the pairs
(first, second, similarity) and the exact copies.
"""

import argparse
import gzip
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NGRAM = 5
_NEAR, _EXACT = 0.2, 0.05
_MOST_TRUTH = 40_000
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Maximal runs of letters and digits, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def jaccard(first: str, second: str, ngram: int = NGRAM) -> float:
    """Jaccard similarity of two texts' sets of word n-grams."""
    sets = []
    for text in (first, second):
        words = words_of(text)
        sets.append({tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def real_text(sources: list[Path], most: int) -> str:
    """English text from plain files below some directories, or the documentation that comes with Python."""
    parts: list[str] = []
    size = 0
    for path in sorted(path for source in sources for path in source.rglob("*")):
        if size > most or not path.is_file():
            continue
        for text in _texts(path):
            parts.append(text)
            size += len(text)
    if size < 1_000_000:
        from pydoc_data.topics import topics

        parts += list(topics.values())
        for path in sorted(Path(os.__file__).parent.rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="ignore")
            parts += [found for found in re.findall(r'"""(.*?)"""', text, re.DOTALL) if len(found) > 100]
    return "\n".join(parts)


def _texts(path: Path) -> Iterator[str]:
    name = path.name.removesuffix(".gz")
    if not name.endswith((".txt", ".md", ".jsonl")) or path.name.startswith("SOURCE"):
        return
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8", errors="ignore")
    if not name.endswith(".jsonl"):
        yield text
        return
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found = record.get("text") if isinstance(record, dict) else None
        if isinstance(found, str) and found.isascii():
            yield found


class Generator:
    """Makes documents of pieces of a text."""

    def __init__(self, text: str, seed: int) -> None:
        self._random = random.Random(seed)
        # Every word with the white space behind it.
        self._text = text
        self._starts = [match.start() for match in re.finditer(r"\S+", text)]

    def document(self) -> str:
        """About 2 kB in pieces of 40 to 90 words, each from anywhere."""
        pick = self._random
        pieces = []
        for _ in range(max(1, int(pick.lognormvariate(1.55, 0.5)))):
            start = pick.randrange(len(self._starts) - 100)
            pieces.append(self._text[self._starts[start] : self._starts[start + pick.randint(40, 90)]])
        return "".join(pieces)

    def near(self, text: str) -> str:
        """A copy with some words replaced, so that the similarity is anything from 0.5 to 1."""
        words = text.split(" ")
        wanted = self._random.uniform(0.5, 1)
        # Of n shingles, about NGRAM per replaced word differ: J = (n - 5 r) / (n + 5 r).
        replaced = round(len(words) * (1 - wanted) / (1 + wanted) / NGRAM)
        for place in self._random.sample(range(len(words)), min(max(replaced, 1), len(words))):
            words[place] = f"{self._random.choice('bcdfgklmnprst')}edit{self._random.randrange(10**9)}"
        return " ".join(words)


def generate(output: Path, documents: int, sources: list[Path], files: int, seed: int = 1) -> None:
    """Write a corpus; what is there already stays."""
    if (output / "truth.json").exists():
        return
    maker = Generator(real_text(sources, 80_000_000), seed)
    pick = random.Random(seed + 1)
    near, exact = int(documents * _NEAR), int(documents * _EXACT)
    texts = [maker.document() for _ in range(documents - near - exact)]
    bases = pick.sample(range(len(texts)), near + exact)
    pairs = [(base, len(texts) + place) for place, base in enumerate(bases[:near])]
    texts += [maker.near(texts[base]) for base in bases[:near]]
    copies = [(base, len(texts) + place) for place, base in enumerate(bases[near:])]
    texts += [texts[base] for base in bases[near:]]
    order = list(range(documents))
    pick.shuffle(order)
    place = {index: at for at, index in enumerate(order)}
    truth = [(place[a], place[b], jaccard(texts[a], texts[b])) for a, b in pairs[:_MOST_TRUTH]]
    shuffled = [texts[index] for index in order]
    ids = [f"{index:08d}" for index in range(documents)]
    for kind in ("parquet", "jsonl"):
        (output / kind).mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = slice(documents * number // files, documents * (number + 1) // files)
        table = pa.table({"id": ids[part], "text": shuffled[part]})
        pq.write_table(table, output / "parquet" / f"{number:04d}.parquet", compression="zstd")
        with (output / "jsonl" / f"{number:04d}.jsonl").open("w") as stream:
            for name, text in zip(ids[part], shuffled[part], strict=True):
                stream.write(json.dumps({"id": name, "text": text}) + "\n")
    known = {"documents": documents, "bytes": sum(map(len, texts)), "pairs": truth}
    known["copies"] = [(place[a], place[b]) for a, b in copies]
    (output / "truth.json").write_text(json.dumps(known))


def main() -> None:
    """Generate a corpus from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("output", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--source", type=Path, nargs="*", default=default_sources())
    options = parser.parse_args()
    generate(options.output, options.documents, options.source, options.files)


def default_sources() -> list[Path]:
    """The sample data's English books, encyclopaedia and documentation, where there are any."""
    root = os.environ.get("TATARA_SAMPLE_DATA")
    names = (
        "eltec-eng",
        "gitenberg-raw",
        "wikitext2-valid-test",
        "docs-cpp",
        "docs-rust-book",
        "instructlab-knowledge-docs",
    )
    return [Path(root) / name for name in names if (Path(root) / name).is_dir()] if root else []


if __name__ == "__main__":
    main()
