"""Small tokens artifacts, written with Megatron's own builder and packed by a plain first-fit."""

import json
from pathlib import Path

import numpy as np

VOCABULARY = 256
SEQUENCE = 64


def documents(count: int, seed: int, longest: int = 3 * SEQUENCE) -> list[list[int]]:
    """Documents with something to learn: each counts upwards from a random token, and ends with token 0."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        start, length = int(rng.integers(1, VOCABULARY)), int(rng.integers(2, longest))
        made.append([1 + (start + index) % (VOCABULARY - 1) for index in range(length)] + [0])
    return made


def segments(lengths: list[int], sequence_length: int) -> list[tuple[int, int, int]]:
    """(document, offset, length) of every chunk; neighbouring chunks overlap by one token."""
    found = []
    for document, length in enumerate(lengths):
        for offset in range(0, length - 1, sequence_length):
            found.append((document, offset, min(sequence_length + 1, length - offset)))
    return found


def pack(pieces: list[tuple[int, int, int]], sequence_length: int) -> list[tuple[int, int, int, int]]:
    """(bin, document, offset, length), first fit, sorted by bin."""
    room: list[int] = []
    rows = []
    for document, offset, length in pieces:
        pairs = length - 1
        chosen = next((index for index, free in enumerate(room) if free >= pairs), len(room))
        if chosen == len(room):
            room.append(sequence_length)
        room[chosen] -= pairs
        rows.append((chosen, document, offset, length))
    return sorted(rows, key=lambda row: row[0])


def write_split(directory: Path, split: str, texts: list[list[int]], sequence_length: int = SEQUENCE) -> None:
    """Write ``<split>.bin``, ``<split>.idx`` and ``<split>-packing.parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(directory / f"{split}.bin"), dtype=np.uint16)
    for text in texts:
        builder.add_document(torch.tensor(text), [len(text)])
    builder.finalize(str(directory / f"{split}.idx"))
    rows = pack(segments([len(text) for text in texts], sequence_length), sequence_length)
    columns = {
        name: pa.array([row[index] for row in rows], pa.int64())
        for index, name in enumerate(("bin", "document", "offset", "length"))
    }
    pq.write_table(pa.table(columns), directory / f"{split}-packing.parquet")


def write_tokens(
    directory: Path,
    train: int = 300,
    validation: int = 30,
    seed: int = 1,
    sequence_length: int = SEQUENCE,
    noise: bool = False,
) -> Path:
    """Write the payload of a small tokens artifact."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = [documents(count, seed + place) for place, count in enumerate((train, validation))]
    if noise:
        rng = np.random.default_rng(seed)
        texts = [[rng.integers(1, VOCABULARY, len(text)).tolist() for text in split] for split in texts]
    write_split(directory, "train", texts[0], sequence_length)
    write_split(directory, "validation", texts[1], sequence_length)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    described = {"vocab_size": VOCABULARY, "eos_id": 0, "sequence_length": sequence_length}
    (directory / "tokens.json").write_text(json.dumps(described))
    return directory
