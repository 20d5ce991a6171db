"""The ``tokenize`` stage: documents to a tokenizer, Megatron token files and packing plans, on Ray Data."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara import storage
from tatara.artifact import Artifact
from tatara.data import indexed
from tatara.data.packing.plan import pack, write_plan
from tatara.data.packing.repeats import occurrences
from tatara.data.shard_map import map_shards
from tatara.data.tokenize import TokenizeConfig
from tatara.data.tokenizer import parts as part_work
from tatara.data.tokenizer.compression import Compression
from tatara.data.tokenizer.making import Made, make
from tatara.data.tokenizer.parts import SPLITS, Encoding, Scan
from tatara.errors import ConfigError, DataError
from tatara.stage import StageRun


@dataclass(frozen=True)
class Part:
    """One file of documents.

    Attributes:
        url: The Parquet file.
        scan: What is known of its documents.
        held_out: Which of them are for validation: ``[documents]``.
        for_training: Which the tokenizer is trained on: ``[documents]``.
    """

    url: str
    scan: Scan
    held_out: NDArray[np.bool_]
    for_training: NDArray[np.bool_]


def run(config: TokenizeConfig, stage_run: StageRun) -> dict[str, Any]:
    """Tokenise and pack.

    Returns:
        Tokens, documents and sequences of each split, bytes per token, and how full the sequences are.

    Raises:
        DataError: There are too few documents to hold one out, or a given tokenizer cannot be used.
        ConfigError: The engine that is asked for cannot be used.
    """
    config = _with_tokenizer(config, stage_run.inputs.get("tokenizer"))
    parts = split(stage_run.inputs["documents"], config)
    directory = stage_run.output.path
    made = make(config, [(part.url, part.for_training) for part in parts], directory / "tokenizer", stage_run)
    stems = _encode_parts(parts, made.encoding, stage_run)

    compression = Compression(extended=made.encoding.before is not None)
    figures: dict[str, Any] = {}
    plans: dict[str, Any] = {}
    for name in SPLITS:
        lengths, before = _join_parts(directory, name, stems, made.encoding.vocab_size)
        part_work.write_documents(
            directory / f"{name}-documents.parquet",
            [(part.url, part.held_out if name == "validation" else ~part.held_out) for part in parts],
        )
        columns = _Columns.of(parts, name == "validation")
        compression.add(columns, lengths, before)
        repeats = None
        if name == "train":
            repeats = occurrences(
                config.packing.long_documents, lengths, columns.repeats, columns.source, columns.sources
            )
        plan = pack(lengths, config.sequence_length, config.packing, repeats)
        write_plan(directory / f"{name}-packing.parquet", plan, config.packing)
        plans[name] = plan.figures(lengths)
        figures |= {
            f"{name}_documents": len(lengths),
            f"{name}_tokens": int(lengths.sum()),
            f"{name}_bytes": int(columns.sizes.sum()),
            f"{name}_sequences": plan.bins,
            f"{name}_fill": round(plan.fill, 6),
        }
    contents = sum(figures[f"{name}_tokens"] - figures[f"{name}_documents"] for name in SPLITS)
    figures["bytes_per_token"] = round(sum(figures[f"{name}_bytes"] for name in SPLITS) / max(contents, 1), 4)
    tokens = {
        "vocab_size": made.encoding.vocab_size,
        "eos_id": made.encoding.end,
        "sequence_length": config.sequence_length,
        "dtype": indexed.token_type(made.encoding.vocab_size).name,
        "tokenizer_sha256": made.digest,
        **figures,
        "compression": compression.literals(),
        "packing": {"strategy": config.packing.strategy, **plans},
    }
    text = json.dumps(tokens, indent=1, ensure_ascii=False) + "\n"
    (directory / "tokens.json").write_text(text, encoding="utf-8")
    _report(figures, plans, compression, made, stage_run)
    return {"vocab_size": made.encoding.vocab_size, **figures}


def _with_tokenizer(config: TokenizeConfig, tokens: Artifact | None) -> TokenizeConfig:
    """The configuration with the tokenizer that other tokens were made with, where they are an input."""
    if tokens is None:
        return config
    if config.tokenizer is not None:
        raise ConfigError(f"tokenizer={config.tokenizer} and the input tokenizer={tokens.reference}: give one of them")
    if config.special_tokens or config.reserved_tokens:
        raise ConfigError("special and reserved tokens are those of the input tokenizer; leave both out")
    return config.model_copy(update={"tokenizer": str(tokens.local() / "tokenizer")})


def _report(
    figures: dict[str, Any], plans: dict[str, Any], compression: Compression, made: Made, stage_run: StageRun
) -> None:
    columns = ["documents", "tokens", "bytes", "sequences", "fill"]
    more = ["cut", "longer_than_a_sequence", "smallest_piece"]
    rows = [
        [name, *(figures[f"{name}_{column}"] for column in columns), *(plans[name][key] for key in more)]
        for name in SPLITS
    ]
    title = f"Tokens: vocabulary {made.encoding.vocab_size:,}, {figures['bytes_per_token']:.2f} bytes per token"
    tables = [{"title": title, "columns": ["split", *columns, *(key.replace("_", " ") for key in more)], "rows": rows}]
    tables += compression.tables()
    found = plans["train"]["sequences_by_segments"]
    tables.append(
        {
            "title": "Training sequences by the number of documents in them",
            "columns": ["documents", "sequences"],
            "rows": [[name, count] for name, count in found.items()],
        }
    )
    stage_run.report("table", tables)
    stage_run.log(
        f"{figures['train_tokens']:,} training and {figures['validation_tokens']:,} validation tokens, "
        f"{figures['bytes_per_token']:.2f} bytes per token ({compression.summary()}); "
        f"{figures['train_sequences']:,} sequences, {figures['train_fill']:.2%} full, "
        f"{plans['train']['segments_per_sequence']:.1f} documents each; {plans['train']['cut']:,} documents cut, "
        f"{plans['train']['longer_than_a_sequence']:,} longer than a sequence"
    )


@dataclass(frozen=True)
class _Columns:
    """What is known of one split's documents, in the order of the token file."""

    sizes: NDArray[np.int64]
    language: NDArray[np.int64]
    languages: list[str]
    source: NDArray[np.int64]
    sources: list[str]
    repeats: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Part], held_out: bool) -> "_Columns":
        masks = [part.held_out if held_out else ~part.held_out for part in parts]
        language, languages = _numbered([(p.scan.languages, p.scan.language) for p in parts], masks)
        source, sources = _numbered([(p.scan.sources, p.scan.source) for p in parts], masks)
        sizes = np.concatenate([part.scan.sizes[mask] for part, mask in zip(parts, masks, strict=True)])
        repeats = np.concatenate([part.scan.repeats[mask] for part, mask in zip(parts, masks, strict=True)])
        return cls(sizes, language, languages, source, sources, repeats)


def _numbered(
    columns: Sequence[tuple[list[str], NDArray[np.int64]]], masks: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers of names that hold for all parts."""
    known: dict[str, int] = {}
    found = []
    for (names, codes), mask in zip(columns, masks, strict=True):
        mine = np.array([known.setdefault(name, len(known)) for name in names], np.int64)
        found.append(mine[codes[mask]] if len(names) else np.zeros(0, np.int64))
    return np.concatenate(found), list(known)


def split(documents: Artifact, config: TokenizeConfig) -> list[Part]:
    """Decide for every document, by a hash of its id, whether it is held out and whether the tokenizer sees it.

    At least one document is held out and at least one is not. The tokenizer never sees a held-out document.

    Raises:
        DataError: There are fewer than two documents.
    """
    urls = [documents.file_url(entry.path) for entry in documents.files("documents")]

    def task(item: dict[str, Any]) -> tuple[int, Scan]:
        return item["index"], part_work.scan(urls[item["index"]], config.seed)

    found = dict(map_shards(task, [{"index": index} for index in range(len(urls))]))
    scans = [found[index] for index in range(len(urls))]
    every = np.concatenate([item.hashes for item in scans]) if scans else np.zeros(0)
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
    wanted = np.concatenate([_in_languages(item, config.training_languages) for item in scans]) & ~held_out
    if not wanted.any():
        raise DataError(f"no document for training the tokenizer is in {', '.join(config.training_languages)}")
    # From the other end of the hash, so that validation and tokenizer samples are chosen alike but apart.
    order = np.argsort(-every, kind="stable")
    room = np.cumsum(np.where(wanted, np.concatenate([item.sizes for item in scans]), 0)[order])
    for_training = np.zeros(len(every), bool)
    for_training[order] = room <= config.training_bytes
    for_training &= wanted
    if not for_training.any():
        for_training[order[np.argmax(wanted[order])]] = True
    ends = np.cumsum([len(item.hashes) for item in scans])[:-1]
    masks = zip(np.split(held_out, ends), np.split(for_training, ends), strict=True)
    return [Part(url, item, *pair) for url, item, pair in zip(urls, scans, masks, strict=True)]


def _in_languages(scan: Scan, languages: Sequence[str]) -> NDArray[np.bool_]:
    if not languages or not scan.languages:
        return np.ones(len(scan.hashes), bool)
    mask: NDArray[np.bool_] = np.array([name in languages for name in scan.languages], bool)[scan.language]
    return mask


def _encode_parts(parts: Sequence[Part], encoding: Encoding, stage_run: StageRun) -> list[Path]:
    """Tokenise each part in a task of its own; returns where, in the order of parts."""
    digest = hashlib.sha256(encoding.serialised.encode()).hexdigest()[:12]
    stems = [stage_run.work / f"tokens-{index:05d}-{digest}" for index in range(len(parts))]

    def task(item: dict[str, Any]) -> int:
        index: int = item["index"]
        part_work.encode_part(parts[index].url, parts[index].held_out, encoding, stems[index])
        return int(parts[index].scan.sizes.sum())

    done = 0
    total = sum(int(part.scan.sizes.sum()) for part in parts)
    for size in map_shards(task, [{"index": index} for index in range(len(parts))]):
        done += size
        stage_run.progress(done / 1e6, total / 1e6, "MB tokenised")
    return stems


def _join_parts(
    directory: Path, name: str, stems: Sequence[Path], vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Append the parts' tokens in order into one ``.bin`` and write its ``.idx``.

    Returns:
        Tokens of each document, and what they were before an extension: two times ``[documents]``.
    """
    lengths = [np.load(part_work.lengths_file(stem, name)) for stem in stems]
    every, before = np.concatenate(lengths, axis=1)
    with storage.errors_named(str(directory), "write"):
        with (directory / f"{name}.bin").open("wb") as out:
            for stem in stems:
                with stem.with_name(f"{stem.name}.{name}.bin").open("rb") as file:
                    shutil.copyfileobj(file, out, 1 << 22)
        indexed.write_index(directory / f"{name}.idx", every, indexed.token_type(vocab_size))
    return every, before
