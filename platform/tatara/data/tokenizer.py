"""Training a byte-level BPE tokenizer that Hugging Face libraries load."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The one special token: ends a document, and stands in for the beginning of one and for padding."""

# How text is split before merges are learnt: the pattern of Llama 3 (arXiv:2407.21783; the tiktoken pattern in
# meta-llama/llama3, llama/tokenizer.py), with single digits instead of groups of up to three.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Train byte-level BPE; every byte is in the vocabulary, so that any text survives the round trip.

    The vocabulary comes out smaller than ``vocab_size`` when the text has fewer pairs to merge.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: "Tokenizer", directory: Path, model_max_length: int) -> str:
    """Write a directory that ``AutoTokenizer.from_pretrained`` and vLLM load.

    Args:
        tokenizer: The tokenizer.
        directory: Where to; made if it is not there.
        model_max_length: Longest input of the model it is for, tokens.

    Returns:
        SHA-256 of ``tokenizer.json``, hexadecimal.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = tokenizer.to_str(pretty=True).encode()
    (directory / "tokenizer.json").write_bytes(content)
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        **special,
    }
    for name, value in (("tokenizer_config.json", settings), ("special_tokens_map.json", special)):
        (directory / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return hashlib.sha256(content).hexdigest()
