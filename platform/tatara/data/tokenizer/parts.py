"""Documents in Parquet files, read in bounded memory: looked over, counted and turned into tokens, a task per file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tatara import storage
from tatara.data import indexed
from tatara.data.tokenizer.engine import open_encoder
from tatara.data.tokenizer.pretokens import WordCounter, WordCounts
from tatara.data.tokenizer.splits import Split

SPLITS = ("train", "validation")
_ROWS = 256
_GROUP_ROWS = 65_536
_BATCH_BYTES = 8_000_000


@dataclass(frozen=True)
class Scan:
    """What is known of a file's documents before they are tokenised.

    Attributes:
        hashes: A uniform number in [0, 1) of each id: ``[documents]``.
        sizes: Bytes of each text: ``[documents]``.
        language: Number of each document's language: ``[documents]``.
        languages: Name of each language.
        source: Number of each document's source: ``[documents]``.
        sources: Name of each source.
        repeats: How often training shall see each: ``[documents]``.
    """

    hashes: NDArray[np.float64]
    sizes: NDArray[np.int64]
    language: NDArray[np.int64]
    languages: list[str]
    source: NDArray[np.int64]
    sources: list[str]
    repeats: NDArray[np.int64]


def uniform(id: str, seed: int) -> float:
    """A uniform number in [0, 1) of a document's id."""
    digest = blake2b(id.encode("utf-8", "replace"), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def scan(url: str, seed: int) -> Scan:
    """Look over a file of documents; ``language``, ``source`` and ``repeats`` are columns that it may lack."""
    hashes, sizes, repeats = [], [], []
    names: dict[str, dict[str, int]] = {"language": {}, "source": {}}
    codes: dict[str, list[int]] = {"language": [], "source": []}
    for batch in _batches(url, ["id", "text", "language", "source", "repeats"]):
        hashes += [uniform(id, seed) for id in batch["id"].to_pylist()]
        sizes.append(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64))
        given = batch.schema.names
        for column, known in names.items():
            values = batch[column].to_pylist() if column in given else [None] * len(batch)
            codes[column] += [known.setdefault(value or "unknown", len(known)) for value in values]
        if "repeats" in given:
            repeats.append(pc.fill_null(batch["repeats"], 1).to_numpy(zero_copy_only=False).astype(np.int64))
        else:
            repeats.append(np.ones(len(batch), np.int64))
    nothing = [np.zeros(0, np.int64)]
    return Scan(
        np.array(hashes, np.float64), np.concatenate(sizes or nothing), np.array(codes["language"], np.int64),
        list(names["language"]), np.array(codes["source"], np.int64), list(names["source"]),
        np.concatenate(repeats or nothing),
    )  # fmt: skip


def _batches(url: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a file, a few at a time: a file, and a group of its rows, may be larger than memory."""
    fs, path = storage.arrow_filesystem(url)
    with pq.ParquetFile(path, filesystem=fs, buffer_size=1 << 20, pre_buffer=False) as file:
        present = [column for column in columns if column in file.schema_arrow.names]
        yield from file.iter_batches(batch_size=_ROWS, columns=present, use_threads=False)


def texts(url: str, chosen: NDArray[np.bool_]) -> Iterator[pa.LargeStringArray]:
    """The texts of chosen documents in order, about 8 MB at a time; a longer one by itself."""
    first = 0
    held: list[pa.LargeStringArray] = []
    size = 0
    for batch in _batches(url, ["text"]):
        mask = chosen[first : first + len(batch)]
        first += len(batch)
        if not mask.any():
            continue
        found = batch["text"].cast(pa.large_string()).filter(pa.array(mask))
        begin = 0
        for end, length in enumerate(pc.binary_length(found).to_pylist(), start=1):
            size += length
            if size >= _BATCH_BYTES:
                yield pa.concat_arrays([*held, found[begin:end]])
                held, size, begin = [], 0, end
        if begin < len(found):
            held.append(found[begin:])
    if held:
        yield pa.concat_arrays(held)


def count_words(url: str, chosen: NDArray[np.bool_], split: Split) -> WordCounts:
    """Count the words of chosen documents."""
    counter = WordCounter(split)
    for array in texts(url, chosen):
        _, offsets, data = array.buffers()
        if data is not None:
            places = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
            counter.add(np.frombuffer(data, np.uint8), places)
    return counter.result()


@dataclass(frozen=True)
class Encoding:
    """How documents become tokens.

    Attributes:
        serialised: The ``tokenizer.json``.
        engine: What tokenises.
        end: The token that ends a document.
        vocab_size: Tokens in the vocabulary.
        before: The ``tokenizer.json`` that this one extends, and its engine, to compare with.
    """

    serialised: str
    engine: str
    end: int
    vocab_size: int
    before: tuple[str, str] | None = None


def encode_part(url: str, held_out: NDArray[np.bool_], encoding: Encoding, stem: Path) -> None:
    """Tokenise one file of documents, unless an earlier run did.

    Writes ``<stem>.<split>.bin``, the tokens, each document with the end-of-text token at its end, and
    ``<stem>.<split>.lengths.npy``, tokens of each document and what they were before an extension: ``[2, documents]``.
    """
    summary = stem.with_name(f"{stem.name}.json")
    if summary.exists():
        return
    kind = indexed.token_type(encoding.vocab_size)
    encoder = open_encoder(encoding.serialised, encoding.engine)
    before = open_encoder(*encoding.before) if encoding.before else None
    for name, mask in zip(SPLITS, (~held_out, held_out), strict=True):
        lengths: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]
        path = stem.with_name(f"{stem.name}.{name}.bin")
        with storage.errors_named(str(path), "write"), path.open("wb") as file:
            for array in texts(url, mask):
                ids, counts = encoder.encode(array)
                file.write(np.insert(ids.astype(kind), np.cumsum(counts), encoding.end).data)
                earlier = before.encode(array)[1] if before else counts
                lengths.append(np.stack([counts + 1, earlier + 1]))
            np.save(lengths_file(stem, name), np.concatenate(lengths, axis=1))
    record: dict[str, Any] = {"url": url, "engine": encoding.engine}
    storage.replace_bytes(summary, json.dumps(record).encode())


def write_documents(path: Path, chosen: Sequence[tuple[str, NDArray[np.bool_]]]) -> None:
    """Write which document of the user's each sequence of a token file is: Parquet with number, id and source.

    Args:
        path: The file to write.
        chosen: Files of documents, and which of each are in the token file, in its order.
    """
    schema = pa.schema([("number", pa.int64()), ("id", pa.string()), ("source", pa.string())])
    first = 0
    with storage.errors_named(str(path), "write"), pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in _named(chosen):
            numbers = pa.array(np.arange(first, first + len(rows)))
            writer.write_batch(pa.record_batch([numbers, rows["id"], rows["source"]], schema=schema))
            first += len(rows)


def _named(chosen: Sequence[tuple[str, NDArray[np.bool_]]]) -> Iterator[pa.RecordBatch]:
    """Ids and sources of chosen documents, as many at a time as a group of rows should have."""
    held: list[pa.Table] = []
    for url, mask in chosen:
        first = 0
        for batch in _batches(url, ["id", "source"]):
            mine = pa.array(mask[first : first + len(batch)])
            first += len(batch)
            known = "source" in batch.schema.names
            source = pc.fill_null(batch["source"], "unknown") if known else pa.array(["unknown"] * len(batch))
            table = pa.table({"id": batch["id"].cast(pa.string()), "source": source.cast(pa.string())})
            held.append(table.filter(mine))
            if sum(map(len, held)) >= _GROUP_ROWS:
                yield from pa.concat_tables(held).combine_chunks().to_batches()
                held = []
    if held:
        yield from pa.concat_tables(held).combine_chunks().to_batches()


def lengths_file(stem: Path, split: str) -> Path:
    """Where `encode_part` leaves the lengths of a split."""
    return stem.with_name(f"{stem.name}.{split}.lengths.npy")
