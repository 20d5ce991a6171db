import copy
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from global_steps import cut, make, run
from tatara.data.dedup.lines import hash_lines
from tatara.data.document import Document


def normal(line: str) -> str:
    """Words in lower case with digits as 0, which is what the hash is of."""
    characters = ("0" if c.isdigit() else c.lower() if c.isalnum() else " " for c in line)
    return " ".join("".join(characters).split())


@given(st.lists(st.text(alphabet="aAB1٣ .\n-\t é字", max_size=40), max_size=6))
def test_lines_hash_alike_exactly_if_their_words_do(texts: list[str]) -> None:
    hashes, characters, bounds = hash_lines(texts)
    lines = [line for text in texts for line in text.split("\n")]
    assert np.diff(bounds).tolist() == [text.count("\n") + 1 for text in texts]
    assert characters.tolist() == [len(line.strip()) for line in lines]
    by_hash: dict[int, str] = {}
    by_form: dict[str, int] = {}
    for line, value in zip(lines, hashes.tolist(), strict=True):
        assert by_hash.setdefault(value, normal(line)) == normal(line)
        assert by_form.setdefault(normal(line), value) == value
        assert (value == 0) == (normal(line) == "")


def corpus(count: int) -> list[Document]:
    pick = random.Random(3)
    common = [f"Common line number {'abcdefghijklmnop'[i]}" for i in range(16)]
    made = []
    for i in range(count):
        lines = [f"own words {pick.choice('xyz') * pick.randrange(1, 400)} {'q' * i}", "}", ""]
        lines += pick.choices(common, weights=[2**-k for k in range(16)], k=3)
        pick.shuffle(lines)
        made.append(Document(id=f"d{i}", text="\n".join(lines), source="s"))
    return made


def reference(documents: list[Document], limit: int, first_stays: bool) -> list[str]:
    counts = Counter(normal(line) for each in documents for line in each.text.split("\n"))
    seen: dict[str, str] = {}
    texts = []
    for document in documents:
        left = []
        for line in document.text.split("\n"):
            form = normal(line)
            first = seen.setdefault(form, document.id) == document.id
            if not form or counts[form] <= limit or (first_stays and first):
                left.append(line)
        texts.append("\n".join(left))
    return texts


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("memory", [1 << 30, 4000])
@pytest.mark.parametrize("first", [False, True])
def test_lines_that_occur_too_often_go(tmp_path: Path, shards: int, memory: int, first: bool) -> None:
    made = corpus(120)
    wanted = reference(made, 6, first)
    before = [document.text for document in made]
    step = make("line_dedup", tmp_path, keep_first=first, min_characters=0)
    verdicts, figures = run(step, cut(made, shards), memory=memory)
    assert verdicts == [None] * 120
    assert [document.text for document in made] == wanted
    lost = sum(a.count("\n") - b.count("\n") for a, b in zip(before, wanted, strict=True))
    assert sum(document.counts["line_dedup.lines"] for document in made) == figures["lines"]
    assert lost > 100


def test_too_little_left_is_dropped(tmp_path: Path) -> None:
    made = corpus(120)
    wanted = reference(made, 6, False)
    left = [sum(len(line.strip()) for line in text.split("\n")) for text in wanted]
    changed = [text != document.text for text, document in zip(wanted, made, strict=True)]
    verdicts, figures = run(make("line_dedup", tmp_path, min_characters=200), cut(made, 3))
    for verdict, characters, touched in zip(verdicts, left, changed, strict=True):
        assert (verdict is not None) == (touched and characters < 200)
        if verdict:
            assert (verdict.reason, verdict.value, verdict.limit) == ("line_dedup.min_characters", characters, 200)
    assert 0 < figures["removed"] < 120


def test_buckets_follow_from_ids_not_from_shards(tmp_path: Path) -> None:
    texts = set()
    for number, shards in enumerate([1, 5]):
        made = copy.deepcopy(corpus(200))
        step = make("line_dedup", tmp_path / str(number), bucket_documents=50, min_characters=0)
        _, figures = run(step, cut(made, shards), dead=[])
        assert figures["buckets"] == 4
        texts.add(tuple(document.text for document in made))
    assert len(texts) == 1
    assert list(texts.pop()) != reference(corpus(200), 6, False)


def test_lines_of_removed_documents_do_not_count(tmp_path: Path) -> None:
    made = [Document(id=f"d{i}", text="same line", source="s") for i in range(4)]
    run(make("line_dedup", tmp_path, max_count=2, min_characters=0), cut(made, 2), dead=[(0, 0), (1, 1)])
    assert [document.text for document in made] == ["same line"] * 4


def test_short_lines_can_be_spared(tmp_path: Path) -> None:
    made = [Document(id=f"d{i}", text="end\nand a longer line", source="s") for i in range(9)]
    run(make("line_dedup", tmp_path, min_line_characters=5, min_characters=0), cut(made, 2))
    assert {document.text for document in made} == {"end"}
