import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

from corpus import topics
from tatara.data.tokenizer.engine import HARD_CASES, choose, large_strings, open_encoder
from tatara.data.tokenizer.splits import END_OF_TEXT, SPLITS
from tatara.data.tokenizer.training import count_words, train
from tatara.errors import ConfigError


def serialised(split: str = "qwen3.5", vocab_size: int = 2000) -> str:
    words = count_words([*topics().values(), *HARD_CASES * 10], SPLITS[split])
    return train(words, vocab_size, split, (END_OF_TEXT, "<|reserved_0|>")).to_str()


@pytest.fixture(scope="module")
def trained() -> str:
    return serialised()


def same(json_text: str, texts: list[str]) -> bool:
    array = large_strings(texts)
    fast, reference = (open_encoder(json_text, name).encode(array) for name in ("gigatoken", "huggingface"))
    return all(np.array_equal(mine, expected) for mine, expected in zip(fast, reference, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_tokens_with_both_engines(split: str) -> None:
    described = serialised(split)
    assert choose(described, "auto") == ("gigatoken", None)
    assert same(described, [*topics().values(), *HARD_CASES])
    assert same(described, [])


@settings(max_examples=200)
@given(texts=st.lists(st.text(), max_size=5))
def test_the_same_tokens_of_any_text(trained: str, texts: list[str]) -> None:
    assert same(trained, texts)


@pytest.mark.data
@pytest.mark.parametrize("split", SPLITS)
def test_the_same_tokens_of_every_folder_and_language(sample_data: Path, split: str) -> None:
    texts = []
    for path in sorted(sample_data.glob("*/**/*")):
        if path.is_file() and path.suffix in {
            ".jsonl",
            ".json",
            ".txt",
            ".csv",
            ".md",
            ".gz",
            ".html",
            ".xml",
            ".warc",
        }:
            raw = path.read_bytes()[:4000]
            if path.suffix == ".gz":
                try:
                    with gzip.open(path) as file:
                        raw = file.read(4000)
                except (OSError, EOFError):
                    continue
            texts.append(raw.decode("utf-8", "replace"))
    assert len(texts) > 100
    assert same(serialised(split), texts)


@pytest.mark.parametrize("name", ["gigatoken", "huggingface"])
def test_special_tokens_spelt_out_are_text(trained: str, name: str) -> None:
    tokenizer = Tokenizer.from_str(trained)
    ids, lengths = open_encoder(trained, name).encode(large_strings([f"a {END_OF_TEXT} b", "<|reserved_0|>", ""]))
    assert not set(ids.tolist()) & {tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id("<|reserved_0|>")}
    assert tokenizer.decode(ids.tolist()) == f"a {END_OF_TEXT} b<|reserved_0|>"
    assert lengths.tolist()[2] == 0


def test_slices_and_surrogates(trained: str) -> None:
    encoder = open_encoder(trained, "gigatoken")
    texts = ["one text", "another", "日本", "last"]
    whole, lengths = encoder.encode(large_strings(texts))
    part, part_lengths = encoder.encode(pa.array(texts, pa.large_string())[1:3])
    assert part_lengths.tolist() == lengths.tolist()[1:3]
    assert part.tolist() == whole.tolist()[lengths[0] : lengths[:3].sum()]
    assert large_strings(["a\ud800b"]).to_pylist() == ["a?b"]


def test_added_tokens_that_are_not_special_stay(trained: str) -> None:
    tokenizer = Tokenizer.from_str(trained)
    tokenizer.add_tokens([AddedToken("qqzz", normalized=False)])
    described = tokenizer.to_str()
    assert same(described, ["aqqzzb qqzz", *HARD_CASES])
    assert tokenizer.token_to_id("qqzz") in open_encoder(described, "huggingface").encode(large_strings(["xqqzz"]))[0]


def test_an_unknown_split_goes_to_the_reference(trained: str) -> None:
    tokenizer = Tokenizer.from_str(trained)
    split = pre_tokenizers.Split(Regex(r"\p{Han}+|\s+|\S+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    name, reason = choose(tokenizer.to_str(), "auto")
    assert name == "huggingface"
    assert "gigatoken does not know this tokenizer" in str(reason)
    with pytest.raises(ConfigError, match="set engine: huggingface"):
        choose(tokenizer.to_str(), "gigatoken")
    assert choose(tokenizer.to_str(), "huggingface") == ("huggingface", None)


def test_a_disagreement_goes_to_the_reference(trained: str) -> None:
    # A prefix space is something that gigatoken does not add; whatever the reason, what differs is not used.
    described = json.loads(trained)
    described["normalizer"] = {"type": "Replace", "pattern": {"String": "cat"}, "content": "dog"}
    name, reason = choose(json.dumps(described), "auto", ["the cat sat"])
    assert name == "huggingface"
    assert reason
