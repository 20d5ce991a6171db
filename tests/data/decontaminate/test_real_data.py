"""Items of real benchmarks planted in real documents are found, and documents without them are left alone."""

import gzip
import json
import random
from pathlib import Path

import pytest

from tatara.data.decontaminate.benchmarks import read_items
from tatara.data.decontaminate.config import DecontaminateConfig
from tatara.data.decontaminate.step import Decontaminate
from tatara.data.document import Document

pytestmark = pytest.mark.data

BENCHMARKS = {
    "gsm8k": "gsm8k/test.jsonl.gz",
    "mmlu": "mmlu/test",
    "humaneval": "humaneval/HumanEval.jsonl.gz",
    "jmmlu": "jmmlu",
    "jsquad": "jglue/jsquad-valid.json.gz",
}
PER_BENCHMARK = 100


def texts(path: Path, most: int) -> list[str]:
    """Whole documents up to a number of bytes."""
    found, size = [], 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            found.append(json.loads(line)["text"])
            size += len(found[-1])
            if size > most:
                break
    return found


@pytest.fixture(scope="module")
def step(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Decontaminate:
    paths = {name: str(sample_data / path) for name, path in BENCHMARKS.items()}
    made = Decontaminate(DecontaminateConfig(benchmarks=paths), tmp_path_factory.mktemp("decontaminate"))
    made.prepare()
    return made


def edited(text: str, share: float, generator: random.Random) -> str:
    """Replace, leave out or add some of the words, or of the characters where there are no spaces."""
    spaced = text.count(" ") > len(text) / 20
    units = text.split(" ") if spaced else list(text)
    other = [*units]
    for place in range(len(units)):
        if generator.random() < share:
            word = generator.choice(other)
            units[place] = generator.choice([word, word, "", f"{units[place]}{' ' if spaced else ''}{word}"])
    return (" " if spaced else "").join(units)


# Lowest share found, by benchmark; MMLU and JSQuAD have many questions of less than a line.
@pytest.mark.parametrize(
    ("share", "least"),
    [
        (0.0, {"gsm8k": 1.0, "mmlu": 1.0, "humaneval": 1.0, "jmmlu": 0.97, "jsquad": 1.0}),
        (0.05, {"gsm8k": 0.97, "mmlu": 0.75, "humaneval": 0.97, "jmmlu": 0.85, "jsquad": 0.75}),
        (0.1, {"gsm8k": 0.95, "mmlu": 0.55, "humaneval": 0.93, "jmmlu": 0.65, "jsquad": 0.45}),
    ],
)
def test_planted_items_are_found(step: Decontaminate, sample_data: Path, share: float, least: dict[str, float]) -> None:
    generator = random.Random(7)
    hosts = texts(sample_data / "docs-cpp" / "docs.jsonl.gz", 1_000_000)
    planted, documents = [], []
    for name, path in step.config.benchmarks.items():
        items = [item for item in read_items(name, path) if len(item.texts[0][1].encode()) > 60]
        for item in generator.sample(items, PER_BENCHMARK):
            host = generator.choice(hosts)
            place = generator.randrange(len(host) + 1)
            text = f"{host[:place]}\n{edited(item.texts[0][1], share, generator)}\n{host[place:]}"
            planted.append((name, item.id))
            documents.append(Document(str(len(documents)), text, "planted"))
    verdicts = step.apply(documents)
    for name, floor in least.items():
        found = sum(
            verdict is not None and any(record.get("item") == item for _, record in document.records)
            for (benchmark, item), document, verdict in zip(planted, documents, verdicts, strict=True)
            if benchmark == name
        )
        assert found >= floor * PER_BENCHMARK, name


def test_documents_without_items_are_left_alone(step: Decontaminate, sample_data: Path) -> None:
    documents = []
    for folder, file in (
        ("docs-cpp", "docs"), ("docs-ja-react", "docs"), ("docs-ja-rust-book", "docs"), ("docs-rust-book", "docs"),
        ("aozora", "works"), ("eltec-eng", "novels"), ("c4-sample", "c4_demo"),
    ):  # fmt: skip
        for number, text in enumerate(texts(sample_data / folder / f"{file}.jsonl.gz", 4_000_000)):
            documents.append(Document(f"{folder}-{number}", text, folder))
    verdicts = step.apply(documents)
    assert [document.id for document, verdict in zip(documents, verdicts, strict=True) if verdict] == []


def test_what_does_fire_is_a_true_quotation(step: Decontaminate, sample_data: Path) -> None:
    """Questions of MMLU that quote a book are found in that book."""
    with gzip.open(sample_data / "gitenberg-raw" / "98__98-0.txt.gz", "rt", encoding="utf-8", errors="replace") as file:
        book = Document("two-cities", file.read(), "gitenberg")
    assert step.apply([book])[0] is not None
    items = [record["item"] for _, record in book.records if "item" in record]
    assert items
    assert all(item.startswith("high_school_world_history_test.csv") for item in items)
    assert all("best of times" in record["excerpt"] for _, record in book.records if "item" in record)
