"""The index that a run publishes of the documents that stay, for later runs to compare theirs with."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.documents import Table, write_table
from tatara.data.dedup.grouping import shard_files
from tatara.data.dedup.records import SECTIONS, SectionWriter, position_of, section_of
from tatara.data.dedup.stages import adopt
from tatara.errors import DataError


@dataclass(frozen=True)
class IndexFile:
    """A file of keys that an index takes over from collected shards.

    Attributes:
        name: Its name.
        dtype: Of its records.
        width: Values per document, if it has a row for each; 0 for records in sections.
        key: The field that says which section a record is in.
        place: The field that names the document.
    """

    name: str
    dtype: np.dtype[Any]
    width: int = 0
    key: str = ""
    place: str = ""


def check_index(path: Path, step: str, parameters: dict[str, Any]) -> None:
    """See that an index was made the way this run makes keys.

    Raises:
        DataError: There is no index, or a parameter differs.
    """
    described = path / "index.json"
    theirs = json.loads(described.read_text()) if described.exists() else {}
    if theirs.get("step") != step:
        raise DataError(f"{step}.against: {path} holds no index of {step}; name the directory that a run published")
    for name, ours in parameters.items():
        if theirs.get(name) != ours:
            raise DataError(
                f"{step}.against: the index {path} was made with {name} = {theirs.get(name)}, this run has {name} = "
                f"{ours}; use the same value or another index"
            )


def index_shards(path: Path) -> list[Path]:
    """The parts of an index."""
    return sorted(path.glob("[0-9]*"))


def write_index(
    directory: Path,
    number: int,
    table: Table,
    stays: NDArray[np.bool_],
    leaders: NDArray[np.int64],
    files: Sequence[IndexFile],
) -> None:
    """Write the part of an index that comes from one shard.

    Args:
        directory: The index.
        number: The shard.
        table: Its documents.
        stays: Which of them the index holds: ``[documents]``.
        leaders: For each document the one of those that its keys stand for; -1 for none: ``[documents]``.
        files: The files of the shard.
    """
    target = directory / f"{number:06d}"
    if target.exists():
        return
    temporary = directory / f".{target.name}-{uuid4().hex}"
    temporary.mkdir(parents=True)
    places = np.flatnonzero(stays)
    renumbered = np.cumsum(stays) - 1
    size = 0
    figures: dict[str, int] = {}
    for file in files:
        path = table.directory / file.name
        if file.width:
            np.fromfile(path, file.dtype).reshape(-1, file.width)[places].tofile(temporary / file.name)
            continue
        writer = SectionWriter(temporary, file.name, SECTIONS)
        for part in shard_files(table, file.name, file.dtype):
            records = np.concatenate([np.zeros(0, file.dtype), *part.read(0, SECTIONS)])
            positions = leaders[position_of(records[file.place].astype(np.uint64))]
            records, positions = records[positions >= 0], positions[positions >= 0]
            records[file.place] = renumbered[positions]
            writer.write(records, section_of(records[file.key]))
            size += records.nbytes
        figures[f"{file.name}_files"] = writer.files
    write_table(temporary, table.documents[places], table.ids(places), {**figures, "key_bytes": size})
    try:
        adopt(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
