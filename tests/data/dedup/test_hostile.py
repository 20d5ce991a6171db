import time
from collections.abc import Callable
from pathlib import Path

import pytest

from global_steps import cut, make, run
from tatara.data.dedup.lines import hash_lines
from tatara.data.dedup.normal import normal_bytes
from tatara.data.dedup.url import normal_url
from tatara.data.document import Document
from tatara.data.shingles import shingle_hashes

HOSTILE = [
    "", " ", "\x00", "\ud800", "\udfff" * 9, "a" * 2_000_000, "漢" * 300_000, "😀" * 100_000,
    "\n" * 300_000, "a\n" * 200_000,
    "\u3000" * 1000, "é" * 1000, "\U0010ffff" * 1000, "ß" * 1000, "a b " * 100_000, ";jsessionid=" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("name", ["exact_dedup", "url_dedup", "line_dedup", "fuzzy_dedup", "semantic_dedup"])
def test_any_text_is_survived(tmp_path: Path, name: str) -> None:
    made = [Document(id=text[:20], text=text, source="s", url=text[:5000]) for text in [*HOSTILE, *HOSTILE[::-1]]]
    verdicts, figures = run(make(name, tmp_path), cut(made, 3))
    assert len(verdicts) == len(made)
    assert figures["removed"] == sum(each is not None for each in verdicts)


def seconds(function: Callable[[str], object], text: str) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        function(text)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize(
    "unit", ["a", " ", "%", "&", ";jsessionid=", "utm_", "a=1&", "\n", "漢", "a b\t", "%C3", "\ud800"]
)
@pytest.mark.parametrize(
    "function",
    [normal_url, lambda text: shingle_hashes([text], 5), lambda text: hash_lines([text]), lambda t: normal_bytes([t])],
)
def test_time_grows_with_the_length_and_no_faster(function: Callable[[str], object], unit: str) -> None:
    short, long = (f"http://e.org/x?{unit * (length // len(unit))}z" for length in (100_000, 400_000))
    assert seconds(function, long) < 12 * seconds(function, short) + 0.02
