"""The ``tokenize`` stage: documents to a tokenizer, Megatron token files and packing plans, on Ray Data."""

import json
import os
import shutil
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
from tatara.artifact import Artifact
from tatara.data import indexed, tokenizer
from tatara.data.packing import PackingPlan, pack
from tatara.data.shard_map import map_shards
from tatara.data.tokenize import TokenizeConfig
from tatara.errors import DataError
from tatara.stage import StageRun

SPLITS = ("train", "validation")
_BATCH = 1000


@dataclass(frozen=True)
class Part:
    """One file of documents.

    Attributes:
        url: The Parquet file.
        held_out: Which of its documents are for validation: ``[documents]``.
        for_training: Which the tokenizer is trained on: ``[documents]``.
    """

    url: str
    held_out: NDArray[np.bool_]
    for_training: NDArray[np.bool_]


def run(config: TokenizeConfig, stage_run: StageRun) -> dict[str, Any]:
    """Tokenise and pack.

    Returns:
        Tokens, documents and sequences of each split, bytes per token, and how full the sequences are.

    Raises:
        DataError: There are too few documents to hold one out.
    """
    parts = split(stage_run.inputs["documents"], config)
    directory = stage_run.output.path
    stage_run.log(f"training a byte-level BPE of {config.vocab_size:,} tokens")
    trained = tokenizer.train(_training_texts(parts), config.vocab_size)
    digest = tokenizer.save(trained, directory / "tokenizer", config.sequence_length)
    vocab_size = trained.get_vocab_size()
    if vocab_size < config.vocab_size:
        stage_run.log(f"the text has pairs for no more than {vocab_size:,} tokens; that is the vocabulary")
    encoded = _encode_parts(parts, trained.to_str(), digest, stage_run)

    figures: dict[str, Any] = {}
    for name in SPLITS:
        lengths = _join_parts(directory, name, [item[name] for item in encoded], vocab_size)
        plan = pack(lengths, config.sequence_length)
        write_plan(directory / f"{name}-packing.parquet", plan)
        figures |= {
            f"{name}_documents": len(lengths),
            f"{name}_tokens": int(lengths.sum()),
            f"{name}_bytes": sum(item[name]["bytes"] for item in encoded),
            f"{name}_sequences": plan.bins,
            f"{name}_fill": round(plan.fill, 6),
        }
    contents = sum(figures[f"{name}_tokens"] - figures[f"{name}_documents"] for name in SPLITS)
    figures["bytes_per_token"] = round(sum(figures[f"{name}_bytes"] for name in SPLITS) / max(contents, 1), 4)
    tokens = {
        "vocab_size": vocab_size,
        "eos_id": trained.token_to_id(tokenizer.END_OF_TEXT),
        "sequence_length": config.sequence_length,
        "dtype": indexed.token_type(vocab_size).name,
        "tokenizer_sha256": digest,
        **figures,
    }
    (directory / "tokens.json").write_text(json.dumps(tokens, indent=1) + "\n", encoding="utf-8")
    _report(figures, vocab_size, stage_run)
    stage_run.log(
        f"{figures['train_tokens']:,} training and {figures['validation_tokens']:,} validation tokens, "
        f"{figures['bytes_per_token']:.2f} bytes per token; {figures['train_sequences']:,} sequences of "
        f"{config.sequence_length}, {figures['train_fill']:.2%} full"
    )
    return {"vocab_size": vocab_size, **figures}


def _report(figures: dict[str, Any], vocab_size: int, stage_run: StageRun) -> None:
    columns = ["documents", "tokens", "bytes", "sequences", "fill"]
    rows = [[name, *(figures[f"{name}_{column}"] for column in columns)] for name in SPLITS]
    title = f"Tokens: vocabulary {vocab_size:,}, {figures['bytes_per_token']:.2f} bytes per token"
    stage_run.report("table", {"title": title, "columns": ["split", *columns], "rows": rows})


def split(documents: Artifact, config: TokenizeConfig) -> list[Part]:
    """Decide for every document, by a hash of its id, whether it is held out and whether the tokenizer sees it.

    At least one document is held out and at least one is not. The tokenizer never sees a held-out document.

    Raises:
        DataError: There are fewer than two documents.
    """
    urls, hashes, sizes = [], [], []
    for entry in documents.files("documents"):
        urls.append(documents.file_url(entry.path))
        fs, path = storage.arrow_filesystem(urls[-1])
        table = pq.read_table(path, filesystem=fs, columns=["id", "text"])
        hashes.append(np.array([_hash(id, config.seed) for id in table["id"].to_pylist()], np.float64))
        sizes.append(np.array(pc.binary_length(table["text"]).to_numpy(), np.int64))
    every = np.concatenate(hashes) if hashes else np.zeros(0)
    if len(every) < 2:
        raise DataError(
            f"{documents.reference} holds {len(every)} document(s); at least 2 are needed, one to train on and one to "
            "hold out: give curate a larger corpus or relax its rules"
        )
    held_out = every < config.validation_fraction
    if not held_out.any():
        held_out[np.argmin(every)] = True
    if held_out.all():
        held_out[np.argmax(every)] = False
    # From the other end of the hash, so that validation and tokenizer samples are chosen alike but apart.
    order = np.argsort(-every, kind="stable")
    room = np.cumsum(np.where(held_out, 0, np.concatenate(sizes))[order]) <= config.training_bytes
    room[0] = True
    for_training = np.zeros(len(every), bool)
    for_training[order] = room
    for_training &= ~held_out
    ends = np.cumsum([len(item) for item in hashes])[:-1]
    masks = zip(np.split(held_out, ends), np.split(for_training, ends), strict=True)
    return [Part(url, *pair) for url, pair in zip(urls, masks, strict=True)]


def _hash(id: str, seed: int) -> float:
    """A uniform number in [0, 1) of a document's id."""
    digest = blake2b(id.encode("utf-8", "replace"), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _training_texts(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        yield from _texts(part.url, part.for_training)


def _texts(url: str, mask: NDArray[np.bool_]) -> list[str]:
    fs, path = storage.arrow_filesystem(url)
    table = pq.read_table(path, filesystem=fs, columns=["text"])
    texts: list[str] = table.filter(pa.array(mask))["text"].to_pylist()
    return texts


def _encode_parts(
    parts: Sequence[Part], serialised: str, digest: str, stage_run: StageRun
) -> list[dict[str, dict[str, Any]]]:
    """Tokenise each part in a task of its own; the records come back in the order of parts."""
    work = stage_run.work

    def task(item: dict[str, Any]) -> tuple[int, dict[str, dict[str, Any]]]:
        index = item["index"]
        return index, encode_part(parts[index], serialised, work / f"tokens-{index:05d}-{digest[:12]}")

    records: dict[int, dict[str, dict[str, Any]]] = {}
    tokens = 0
    for index, record in map_shards(task, [{"index": index} for index in range(len(parts))]):
        records[index] = record
        tokens += sum(record[name]["tokens"] for name in SPLITS)
        stage_run.progress(len(records), len(parts), "files tokenised", tokens=tokens)
    return [records[index] for index in range(len(parts))]


def encode_part(part: Part, serialised: str, stem: Path) -> dict[str, dict[str, Any]]:
    """Tokenise one file of documents into ``<stem>.<split>.bin`` and ``.lengths.npy``, unless an earlier run did.

    Each document ends with the end-of-text token.

    Returns:
        For each split, its files, tokens and bytes of text.
    """
    summary = stem.with_name(f"{stem.name}.json")
    if summary.exists():
        earlier: dict[str, dict[str, Any]] = json.loads(summary.read_text())
        return earlier
    # Ray gives this task one CPU; the encoder's own threads would take them all.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(serialised)
    end = encoder.token_to_id(tokenizer.END_OF_TEXT)
    # A document that spells out the special token must not end there.
    encoder.encode_special_tokens = True
    kind = indexed.token_type(encoder.get_vocab_size())
    record = {}
    for name, mask in (("train", ~part.held_out), ("validation", part.held_out)):
        texts = _texts(part.url, mask)
        lengths = np.zeros(len(texts), np.int64)
        path = stem.with_name(f"{stem.name}.{name}.bin")
        with storage.errors_named(str(path), "write"), path.open("wb") as file:
            for start in range(0, len(texts), _BATCH):
                batch = texts[start : start + _BATCH]
                for i, encoding in enumerate(encoder.encode_batch_fast(batch, add_special_tokens=False), start=start):
                    ids = np.array([*encoding.ids, end], kind)
                    lengths[i] = len(ids)
                    file.write(ids.tobytes())
            np.save(stem.with_name(f"{stem.name}.{name}.lengths.npy"), lengths)
        size = sum(len(text.encode()) for text in texts)
        record[name] = {"stem": str(stem), "tokens": int(lengths.sum()), "bytes": size}
    with storage.errors_named(str(summary), "write"):
        partial = summary.with_name(f"{summary.name}.{os.getpid()}.part")
        partial.write_text(json.dumps(record))
        os.replace(partial, summary)
    return record


def _join_parts(directory: Path, name: str, records: Sequence[dict[str, Any]], vocab_size: int) -> NDArray[np.int64]:
    """Append the parts' tokens in order into one ``.bin``, write its ``.idx``, and return the documents' lengths."""
    lengths = [np.load(f"{record['stem']}.{name}.lengths.npy") for record in records]
    every: NDArray[np.int64] = np.concatenate(lengths)
    with storage.errors_named(str(directory), "write"):
        with (directory / f"{name}.bin").open("wb") as out:
            for record in records:
                with open(f"{record['stem']}.{name}.bin", "rb") as file:
                    shutil.copyfileobj(file, out, 1 << 22)
        indexed.write_index(directory / f"{name}.idx", every, indexed.token_type(vocab_size))
    return every


def write_plan(path: Path, plan: PackingPlan) -> None:
    """Write a packing plan as Parquet: one row per segment, sorted by bin."""
    columns = {"bin": plan.bin, "document": plan.document, "offset": plan.offset, "length": plan.length}
    table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    table = table.replace_schema_metadata({"sequence_length": str(plan.sequence_length)})
    pq.write_table(table, path, compression="zstd")
