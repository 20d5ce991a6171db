"""Formulas, and what is broken about them."""

import gzip
import json
import time
from pathlib import Path

import pytest

from tatara.data.document import Document
from tatara.data.special.config import MathematicsConfig
from tatara.data.special.latex import figures
from tatara.data.special.mathematics import Mathematics

_GOOD = r"""Let $f(x) = \frac{a}{b}$ be a function, so that \(f(0) = \{1\}\) and
\begin{align*} f(1) &= 2 \\ f(2) &= 3 \end{align*}
holds. Then \[ \int_0^1 f(x)\,dx = \sqrt{2} \] and, with a price of $5 and \$6, $$ y = \left( x \right) $$ as well."""


def _reason(text: str, **settings: float | None) -> str | None:
    verdict = Mathematics(MathematicsConfig(**settings), Path()).judge(Document("0", text, "s"))  # type: ignore[arg-type]
    return verdict.reason.removeprefix("mathematics.") if verdict else None


@pytest.mark.parametrize(
    ("text", "formulas", "broken", "empty"),
    [
        ("", 0, 0, 0),
        (_GOOD, 5, 0, 0),
        ("It costs $5 or $10, not $3.50.", 0, 0, 0),
        ("$x$ and $y$", 2, 0, 0),
        ("$x and y", 0, 1, 0),
        ("$x\n\ny$ is", 0, 1, 0),  # a formula ends with its paragraph; the second sign opens nothing
        (r"\(a", 0, 1, 0),
        (r"a\)", 0, 1, 0),
        (r"\[ a \)", 0, 1, 0),
        (r"\[ a \[ b \]", 1, 1, 0),
        (r"\[ a \text{ if \(b\)} \]", 1, 0, 0),
        (r"$\frac{a}{b$", 1, 2, 0),
        (r"$$ $$ and \( \)", 2, 0, 2),
        (r"\begin{align} a \end{align}", 1, 0, 0),
        (r"\begin{align} a \end{equation}", 1, 2, 0),
        (r"\begin{itemize} \item word \end{itemize}", 0, 0, 0),
        (r"\begin{proof} \begin{gather} a \end{gather} done \end{proof}", 1, 0, 0),
        (r"\begin{proof} done", 0, 1, 0),
        ("\\", 0, 0, 0),
        (r"\begin{", 0, 1, 0),
        ("$", 0, 0, 0),
        ("$$", 0, 1, 0),
    ],
)
def test_delimiters_are_paired(text: str, formulas: int, broken: int, empty: int) -> None:
    found = figures(text)
    assert (found.formulas, found.broken, found.empty) == (formulas, broken, empty)


def test_words_and_shares() -> None:
    found = figures("The sum $abc + 12$ of it is odd 34. 東京都の話")
    assert found.words == 3 + 5 // 3
    assert found.digits == 4
    assert found.inside == len("$abc+12")
    # A sign that turns out to open nothing hides no words.
    assert figures("three $words are here").words == 4


def test_good_text_stays_as_it_is() -> None:
    document = Document("0", _GOOD, "s")
    assert Mathematics(MathematicsConfig(), Path()).judge(document) is None
    assert document.text == _GOOD


def test_each_rule() -> None:
    assert _reason(_GOOD.replace("}", "")) == "max_broken"
    assert _reason("Where $$ $$ is more than $$ $$ and $$ $$ is less.") == "max_empty"
    assert _reason("$" + "x + y = z, " * 80 + "w$ only this") == "max_formulas"
    assert _reason("The table: " + "0.123456 " * 50) == "max_numbers"
    assert _reason("$x = 1$, $y = 2$, so 3") == "min_words"
    for key in ("max_broken", "max_empty", "max_formulas", "max_numbers", "min_words"):
        assert _reason("", **{key: None}) == (None if key == "min_words" else "min_words")


def test_odd_text_survives_in_linear_time() -> None:
    step = Mathematics(MathematicsConfig(), Path())
    for unit in (
        "a",
        "$",
        "$a ",
        "$$",
        "\\",
        "\\begin{",
        "\\begin{a}",
        "\\end{a}",
        "\\(",
        "{",
        "\ud800",
        "\x00",
        "$1 ",
        "東",
        "\n",
    ):
        best = []
        for size in (50_000, 400_000):
            text, tries = unit * (size // len(unit)), []
            for _ in range(3):
                started = time.process_time()
                step.judge(Document("0", text, "s"))
                tries.append(time.process_time() - started)
            best.append(min(tries))
        assert best[1] < 24 * best[0] + 0.02, unit


def _rows(path: Path) -> list[dict[str, str]]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode().splitlines() if line.strip()]


@pytest.mark.data
def test_competition_problems_pass_and_torn_ones_do_not(sample_data: Path) -> None:
    rows = _rows(sample_data / "math" / "test.jsonl.gz")[:2000]
    texts = [f"{row['problem']}\n{row['solution']}" for row in rows]
    assert sum(_reason(text) is None for text in texts) > 0.99 * len(texts)
    # What is left when an extractor loses closing brackets, or every second delimiter.
    rich = [text for text in texts if text.count("}") > 6]
    assert sum(_reason(text.replace("}", "")) == "max_broken" for text in rich) > 0.85 * len(rich)
    displayed = [text for text in texts if text.count("\\]") > 2]
    assert sum(_reason(text.replace("\\]", "")) == "max_broken" for text in displayed) > 0.75 * len(displayed)


@pytest.mark.data
def test_prices_in_word_problems_are_no_broken_formulas(sample_data: Path) -> None:
    files = [path for path in (sample_data / "gsm8k").iterdir() if ".jsonl" in path.name]
    texts = [f"{row['question']}\n{row['answer']}" for path in files for row in _rows(path)]
    priced = [text for text in texts if text.count("$") > 2]
    assert len(priced) > 1000
    assert sum(_reason(text) is None for text in priced) > 0.98 * len(priced)
