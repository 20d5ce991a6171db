import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from tatara.data.document import Document, Verdict
from tatara.data.filters.bad_words import BadWords
from tatara.data.filters.config import BadWordsConfig
from tatara.errors import DataError


@pytest.fixture
def lists(tmp_path: Path) -> str:
    (tmp_path / "en.txt").write_text("darn\nheck\ngosh darn it\n", encoding="utf-8")
    (tmp_path / "ja").write_text("ばか者\nsm\nグロ\n", encoding="utf-8")
    return str(tmp_path)


def judge(text: str, language: str | None = "en", **values: Any) -> tuple[Verdict | None, Document]:
    document = Document("x", text, "s", language=language)
    return BadWords(BadWordsConfig(**values), Path()).judge(document), document


def test_the_density_counts(lists: str) -> None:
    verdict, document = judge("Darn! What the heck, gosh darn it. " + "fine " * 91, lists=lists)
    assert verdict == Verdict("bad_words.max_density", pytest.approx(3 / 98), 0.01)
    assert document.counts["bad_words.matches"] == 3
    assert judge("darning heckled " * 20, lists=lists)[0] is None
    assert judge("Darn! " + "fine " * 200, lists=lists)[0] is None


def test_any_match_drops_as_in_c4(lists: str) -> None:
    verdict, _ = judge("Darn! " + "fine " * 200, lists=lists, max_matches=0)
    assert verdict == Verdict("bad_words.max_matches", 1, 0)


def test_lists_belong_to_languages(lists: str, tmp_path: Path) -> None:
    assert judge("darn heck", "de", lists=lists)[0] is None
    assert judge("darn heck", None, lists=lists)[0] is None
    assert judge("このばか者。", "ja", lists=lists)[0] is not None
    # On C4's list of exceptions.
    assert judge("smとグロ", "ja", lists=lists)[0] is None
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"drat\n"))
    more = str(tmp_path / "more.txt.gz")
    assert judge("drat", "de", language_lists={"de": (more,)})[0] is not None
    assert judge("drat", "fr", language_lists={"de": (more,)})[0] is None
    assert judge("drat", None, language_lists={"*": (more,)})[0] is not None


def test_a_fraction_stays_whatever_the_batch(lists: str) -> None:
    names = [f"document {number}" for number in range(2000)]
    values = {"lists": lists, "max_matches": 0, "keep_fraction": 0.1}
    step = BadWords(BadWordsConfig(**values), Path())
    kept = [name for name in names if step.judge(Document(name, "darn", "s", language="en")) is None]
    assert 150 <= len(kept) <= 250
    again = BadWords(BadWordsConfig(**values), Path())
    backwards = [Document(name, "darn", "s", language="en") for name in reversed(names)]
    verdicts = again.apply(backwards)
    assert [document.id for document, verdict in zip(backwards, verdicts, strict=True) if not verdict] == kept[::-1]
    other = BadWords(BadWordsConfig(**values, seed=1), Path())
    assert [name for name in names if other.judge(Document(name, "darn", "s", language="en")) is None] != kept


def test_missing_lists_are_named_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no directory of lists at"):
        BadWords(BadWordsConfig(lists=str(tmp_path / "none")), tmp_path).prepare()
    with pytest.raises(DataError, match=r"no list at .*none\.txt"):
        BadWords(BadWordsConfig(language_lists={"fi": (str(tmp_path / "none.txt"),)}), tmp_path).prepare()
    (tmp_path / "latin").write_bytes("schön".encode("latin-1"))
    with pytest.raises(DataError, match="not text in UTF-8"):
        BadWords(BadWordsConfig(language_lists={"de": (str(tmp_path / "latin"),)}), tmp_path).prepare()


@pytest.mark.data
@pytest.mark.parametrize("language", ["de", "en", "es", "fr"])
def test_what_c4_drops_is_dropped(sample_data: Path, language: str) -> None:
    """Against the regular expression that C4 makes of its list, over sentences with listed words put between."""
    directory = sample_data / "badwords"
    # C4 lowers the text, but not its list; and an underscore is a letter to the expression, a mark to us.
    listed = (directory / f"{language}.txt").read_text(encoding="utf-8").lower().replace("_", " ").splitlines()
    words = [line.strip() for line in listed if line.strip()]
    expression = re.compile(r"(?:\W|^)({})(?:\W|$)".format("|".join(map(re.escape, words))))
    lines = (sample_data / f"langid-lingua/{language}.sentences.txt").read_text(encoding="utf-8").splitlines()[:300]
    texts = [
        *lines,
        *(
            f"{line[: len(line) // 2]}{glue}{word}{glue}."
            for word, line in zip(words, lines, strict=False)
            for glue in (" ", "", "-")
        ),
    ]
    step = BadWords(BadWordsConfig(lists=str(directory), max_matches=0), Path())
    differ = []
    for text in texts:
        found = step.judge(Document("x", text, "s", language=language)) is not None
        if found != (expression.search(text.lower().replace("_", " ")) is not None):
            differ.append(text)
    assert differ == []
