"""What kind a document is, by name and by content."""

import gzip
import json
import sysconfig
import time
from pathlib import Path

import pytest

from tatara.data.document import Document
from tatara.data.special.config import KindConfig
from tatara.data.special.kind import Kind
from tatara.data.special.lines import figures


def _judged(text: str, id: str = "0", source: str = "web.jsonl", url: str | None = None, **metadata: str) -> Document:
    document = Document(id, text, source, url, metadata)
    assert Kind(KindConfig(), Path()).judge(document) is None
    return document


def test_names_decide_before_content() -> None:
    prose = "It was a fine day, and everybody who had nothing else to do went down to the river to look at it. " * 9
    for metadata, kind, language in (
        ({"path": "src/a.py"}, "code", "python"),
        ({"max_stars_repo_path": "lib\\main.RS"}, "code", "rust"),
        ({"filename": "Makefile"}, "code", "makefile"),
        ({"path": "paper/main.tex"}, "mathematics", None),
        ({"lang": "C++"}, "code", "c++"),
        ({"programming_language": "Jupyter Notebook"}, "code", "jupyter"),
        ({"language": "golang"}, "code", "go"),
        ({"language": "en"}, "text", None),
        ({"language": "ml"}, "text", None),
        ({"path": "notes.txt"}, "text", None),
    ):
        document = _judged(prose, **metadata)
        assert (document.kind, document.labels.get("programming_language")) == (kind, language), metadata
    assert _judged(prose, url="https://host/raw/x.go?y=1").kind == "code"
    assert _judged(prose, url="https://host/index.php").kind == "text"
    assert _judged(prose, id="pkg/mod.py", source="pkg/mod.py").kind == "code"
    assert _judged(prose, id="pkg/mod.py::Class.method", source="pkg/mod.py").kind == "text"  # a docstring
    assert _judged(prose).counts == {"kind.text": 1}


def test_odd_text_is_text() -> None:
    for text in ("", "\n\n", "\ud800", "\x00" * 100, "a" * 1_000_000, " ", "あ" * 10_000):
        assert _judged(text).kind == "text"


def test_figures_are_those_of_a_plain_count() -> None:
    text = "int f(int a) { return a == 1; }\n\nLet $x$ be \\alpha, ∑ of 3 größe 東京.\n  " + "ab1/" * 20 + "\n"
    found = figures(text)
    lines = text.removesuffix("\n").split("\n")
    assert (found.lines, found.filled, found.longest) == (4, 3, max(map(len, lines)))
    assert found.characters == sum(map(len, lines))
    assert found.alphabetic == sum(map(str.isalpha, text))
    assert found.digits == sum(map(str.isdigit, text))
    assert (found.code, found.commands, found.dollars, found.operators) == (len(lines[0]), 1, 2, 1)
    assert found.longest_encoded == 80


def test_time_is_linear() -> None:
    for unit in ("a", "$", "\\a", "{", "\n", "東", "ab 1\n"):
        best = []
        for size in (100_000, 800_000):
            text, tries = unit * (size // len(unit)), []
            for _ in range(3):
                started = time.process_time()
                figures(text)
                tries.append(time.process_time() - started)
            best.append(min(tries))
        assert best[1] < 24 * best[0] + 0.02


def test_python_files_without_names_are_code() -> None:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.stat().st_size > 2000]
    kinds = [_judged(text).kind for text in texts]
    assert len(kinds) > 100
    assert kinds.count("code") / len(kinds) > 0.85


@pytest.mark.data
def test_prose_and_mathematics_are_told_apart(sample_data: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        path = sample_data / name
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [json.loads(line) for line in raw.decode().splitlines() if line.strip()]

    problems = [f"{row['problem']}\n{row['solution']}" for row in rows("math/test.jsonl.gz")[:1000]]
    kinds = [_judged(text).kind for text in problems]
    assert kinds.count("mathematics") > 960
    assert [_judged(row["text"]).kind for row in rows("c4-sample/c4_demo.jsonl.gz")].count("text") > 295
    documentation = [row["text"] for row in rows("docs-rust-book/docs.jsonl.gz")]
    assert [_judged(text).kind for text in documentation].count("text") > 0.95 * len(documentation)
