"""Small sources of tokens to mix."""

import json
from pathlib import Path

from train.tokens_cases import SEQUENCE, VOCABULARY, documents, write_split

COUNTS = {"web": 90, "code": 40, "math": 12}


def write_source(directory: Path, count: int, seed: int, tokenizer: str = "{}", sequence: int = SEQUENCE) -> Path:
    """The payload of a tokens artifact of random documents."""
    directory.mkdir(parents=True)
    write_split(directory, "train", documents(count, seed), sequence)
    write_split(directory, "validation", documents(9, seed + 1000), sequence)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text(tokenizer)
    described = {"vocab_size": VOCABULARY, "eos_id": 0, "sequence_length": sequence}
    (directory / "tokens.json").write_text(json.dumps(described))
    return directory


def write_sources(root: Path) -> dict[str, Path]:
    """Three sources of different sizes."""
    return {name: write_source(root / name, count, seed) for seed, (name, count) in enumerate(COUNTS.items())}
