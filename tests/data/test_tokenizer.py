import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpus import topics
from tatara.data import tokenizer


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return tokenizer.train(topics().values(), 1000)


def test_size_and_special_token(trained: Tokenizer) -> None:
    assert trained.get_vocab_size() == 1000
    assert trained.token_to_id(tokenizer.END_OF_TEXT) == 0


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text).ids, skip_special_tokens=False) == text


def test_digits_stand_alone_and_words_keep_their_space(trained: Tokenizer) -> None:
    tokens = [trained.decode([i]) for i in trained.encode("the 2024 statement").ids]
    assert tokens == ["the", " ", "2", "0", "2", "4", " statement"]


def test_hugging_face_loads_it_offline(trained: Tokenizer, tmp_path: Path) -> None:
    digest = tokenizer.save(trained, tmp_path / "tokenizer", 128)
    assert digest == hashlib.sha256((tmp_path / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.eos_token == loaded.bos_token == loaded.pad_token == tokenizer.END_OF_TEXT
    assert loaded.model_max_length == 128
    text = "A statement , with  spaces n't cleaned up \n\n\tand 日本語 🎌."
    assert loaded(text)["input_ids"] == trained.encode(text).ids
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_training_gives_the_same_bytes_with_any_number_of_threads(trained: Tokenizer) -> None:
    code = (
        "import hashlib; from corpus import topics; from tatara.data import tokenizer;"
        "print(hashlib.sha256(tokenizer.train(topics().values(), 1000).to_str(pretty=True).encode()).hexdigest())"
    )
    path = os.pathsep.join(sys.path)
    expected = hashlib.sha256(trained.to_str(pretty=True).encode()).hexdigest()
    for threads in ("1", "3"):
        environment = {**os.environ, "PYTHONPATH": path, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert run.stdout.strip() == expected


def test_a_tiny_text_gives_a_smaller_vocabulary() -> None:
    assert tokenizer.train(["ab"], 1000).get_vocab_size() == 257 + 1
