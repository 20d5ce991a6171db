"""Files below a path, read the way a run does it."""

import json
from pathlib import Path

from tatara.data.document import Document, Quarantined
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file
from tatara.data.read.shards import plan_shards
from tatara.data.sources import corpus_files

BIG = 10**9


def read(path: Path, shard_bytes: int = BIG, **config: object) -> list[Document | Quarantined]:
    settings = ReadConfig(**config)
    shards = plan_shards(corpus_files(str(path)).files, shard_bytes)
    return [found for shard in shards for file in shard.files for found in read_file(file, settings)]


def documents(found: list[Document | Quarantined]) -> list[Document]:
    return [item for item in found if isinstance(item, Document)]


def quarantined(found: list[Document | Quarantined]) -> list[Quarantined]:
    return [item for item in found if isinstance(item, Quarantined)]


def write_jsonl(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path
