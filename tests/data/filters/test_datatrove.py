"""Verdicts on real documents against those that datatrove 0.10.1 gave, words split at white space.

Recorded by ``tests/benchmarks/bench_filters.py --record`` for the first 120 documents of each of `FILES`.
"""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tatara.data.document import Document
from tatara.data.filters.config import FineWebConfig, GopherQualityConfig, GopherRepetitionConfig
from tatara.data.filters.fineweb import FineWeb
from tatara.data.filters.gopher_quality import GopherQuality
from tatara.data.filters.gopher_repetition import GopherRepetition
from tatara.data.steps import EachStep

FILES = ("c4-sample/c4_demo.jsonl.gz", "docs-rust-book/docs.jsonl.gz", "docs-rust-reference/docs.jsonl.gz")
STEPS: dict[str, EachStep] = {
    "gopher_quality": GopherQuality(GopherQualityConfig(), Path()),
    "gopher_repetition": GopherRepetition(GopherRepetitionConfig(), Path()),
    "fineweb": FineWeb(FineWebConfig(), Path()),
}
NAMES = {
    "gopher_short_doc": "min_words",
    "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_ellipsis": "max_symbol_ratio",
    "gopher_below_alpha_threshold": "min_alphabetic_words",
    "gopher_enough_stop_words": "min_stop_words",
    "dup_line_frac": "max_duplicate_lines",
    **{f"top_{n}_gram": "max_top_ngram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": "max_duplicate_ngrams" for n in range(5, 11)},
    "line_punct_ratio": "min_punctuated_lines",
    "short_line_ratio": "max_short_lines",
    "char_dup_ratio": "max_duplicate_line_characters",
    "list_ratio": "max_newlines",
}


def is_known_difference(name: str, text: str, theirs: str | None) -> bool:
    """Where we mean to differ."""
    if name == "gopher_repetition" and theirs and theirs.startswith("top_"):
        # In a short text they take an n-gram for the most frequent one that occurs only once.
        n, words = int(theirs[4]), text.split()
        return max(Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).values()) == 1
    if name == "gopher_quality" and theirs == "gopher_enough_stop_words":
        # They miss stop words in upper case and next to punctuation.
        return not {"the", "and"} <= set(text.split())
    # They count the spaces that indent a line of code.
    return name == "fineweb" and any(line != line.strip() for line in text.split("\n") if line.strip())


@pytest.mark.data
@pytest.mark.parametrize("name", STEPS)
def test_verdicts_are_those_of_datatrove(sample_data: Path, name: str) -> None:
    recorded = json.loads(Path(__file__).with_name("datatrove_verdicts.json").read_text(encoding="utf-8"))[name]
    texts: list[str] = []
    for path in FILES:
        with gzip.open(sample_data / path, "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for _, line in zip(range(120), file, strict=False)]
    differ = []
    for place, text in enumerate(text for text in texts if text.strip()):
        verdict = STEPS[name].judge(Document("x", text, "s", language="en"))
        theirs = recorded.get(str(place))
        ours = verdict and verdict.reason.partition(".")[2]
        if ours != (theirs and NAMES[theirs]) and not is_known_difference(name, text, theirs):
            differ.append((place, verdict, theirs))
    assert differ == []
    assert len(recorded) >= 5
