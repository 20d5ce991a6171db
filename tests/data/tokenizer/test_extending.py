import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from corpus import topics
from tatara.data.tokenizer.engine import HARD_CASES, choose
from tatara.data.tokenizer.extending import extend, known_split, words_of
from tatara.data.tokenizer.splits import END_OF_TEXT, SPLITS
from tatara.data.tokenizer.training import count_words, train
from tatara.errors import DataError

JAPANESE = [
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で"
    "ニャーニャー泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。",
    "しかもあとで聞くとそれは書生という人間中で一番獰悪な種族であったそうだ。この書生というのは時々"
    "我々を捕えて煮て食うという話である。しかしその当時は何という考もなかったから別段恐しいとも思わなかった。",
] * 20  # fmt: skip
ENGLISH = list(topics().values())


@pytest.fixture(scope="module")
def old() -> Tokenizer:
    return train(count_words(ENGLISH, SPLITS["llama3"]), 1000, "llama3", (END_OF_TEXT, "<|reserved_0|>"))


def test_numbers_stay_and_text_is_the_old_text_with_neighbours_joined(old: Tokenizer) -> None:
    new = extend(old, count_words(JAPANESE, SPLITS["llama3"]), 1200)
    before, after = old.get_vocab(), new.get_vocab()
    assert {token: after[token] for token in before} == before
    assert sorted(after.values()) == list(range(1200))
    merges = [json.loads(tokenizer.to_str())["model"]["merges"] for tokenizer in (old, new)]
    assert merges[1][: len(merges[0])] == merges[0]

    made_of: dict[int, list[int]] = {number: [number] for number in before.values()}
    names = {number: token for token, number in after.items()}
    for left, right in merges[1][len(merges[0]) :]:
        made_of.setdefault(after[left + right], made_of[after[left]] + made_of[after[right]])
    assert len(made_of) == len(names)
    for text in [*ENGLISH[:20], *JAPANESE[:2], *HARD_CASES]:
        ids = new.encode(text, add_special_tokens=False).ids
        assert [part for number in ids for part in made_of[number]] == old.encode(text, add_special_tokens=False).ids
        assert new.decode(ids, skip_special_tokens=False) == text


def test_the_new_language_gets_shorter_and_the_old_hardly_changes(old: Tokenizer) -> None:
    new = extend(old, count_words(JAPANESE, SPLITS["llama3"]), 1200)

    def tokens(tokenizer: Tokenizer, texts: list[str]) -> int:
        return sum(len(item.ids) for item in tokenizer.encode_batch(texts))

    assert tokens(new, JAPANESE) < 0.5 * tokens(old, JAPANESE)
    assert tokens(new, ENGLISH) == pytest.approx(tokens(old, ENGLISH), rel=0.01)
    assert choose(new.to_str(), "auto", [*ENGLISH, *JAPANESE]) == ("gigatoken", None)


def test_extending_in_two_steps_is_extending_once(old: Tokenizer) -> None:
    words = count_words(JAPANESE, SPLITS["llama3"])
    once = extend(old, words, 1200)
    twice = extend(extend(old, words, 1100), words, 1200)
    assert json.loads(twice.to_str()) == json.loads(once.to_str())


def test_going_on_from_a_small_vocabulary_is_training_a_large_one() -> None:
    words = count_words(ENGLISH, SPLITS["qwen3.5"])
    small, large = (train(words, size, "qwen3.5") for size in (400, 700))
    assert json.loads(extend(small, words, 700).to_str()) == json.loads(large.to_str())


@pytest.mark.parametrize("split", SPLITS)
def test_words_by_the_tokenizers_own_rules_are_ours(split: str) -> None:
    tokenizer = train(count_words(ENGLISH[:5], SPLITS[split]), 300, split)
    assert known_split(tokenizer) == SPLITS[split]
    texts = [*ENGLISH[:10], *JAPANESE[:2]]
    found = []
    for words in (words_of(tokenizer, texts), count_words(texts, SPLITS[split])):
        pieces = np.split(words.text, words.ends[:-1])
        found.append({piece.tobytes(): count for piece, count in zip(pieces, words.counts.tolist(), strict=True)})
    assert found[0] == found[1]


def test_other_rules_are_taken_from_the_tokenizer(old: Tokenizer) -> None:
    other = Tokenizer.from_str(old.to_str())
    other.normalizer = normalizers.NFKC()
    split = pre_tokenizers.Split(Regex(r"\s+|\S+"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    other.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    assert known_split(other) is None
    new = extend(other, words_of(other, ["ｆｕｌｌ、ｗｉｄｔｈ fu、wi"] * 50), 1010)
    assert "full" in "".join(new.get_vocab())
    assert new.decode(new.encode("ｆｕｌｌ").ids) == "full"


def test_what_cannot_be_extended_is_said(old: Tokenizer) -> None:
    words = count_words(JAPANESE, SPLITS["llama3"])
    with pytest.raises(DataError, match=r"not more than the 1,000 tokens"):
        extend(old, words, 1000)
    with pytest.raises(DataError, match="byte-level BPE"):
        extend(Tokenizer(models.BPE({"a": 0}, [])), words, 1200)


@pytest.mark.data
def test_japanese_on_top_of_english(sample_data: Path) -> None:
    with gzip.open(sample_data / "aozora" / "works.jsonl.gz", "rt") as file:
        texts = [json.loads(next(file))["text"][:20_000] for _ in range(30)]
    base = train(count_words(ENGLISH, SPLITS["qwen3.5"]), 2000, "qwen3.5")
    new = extend(base, count_words(texts[1:], SPLITS["qwen3.5"]), 6000)
    before, after = (len(tokenizer.encode(texts[0]).ids) for tokenizer in (base, new))
    assert after < 0.4 * before
