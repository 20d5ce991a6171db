"""Which documents a step was trained on, and in which steps a document was: both follow from the plan alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tatara.errors import DataError
from tatara.train.feed.batches import Packing
from tatara.train.feed.phases import training_step
from tatara.train.feed.plan import TrainingPlan
from tatara.train.feed.positions import index_of


@dataclass(frozen=True)
class Consumed:
    """A run of tokens of a document that a step was trained on.

    Attributes:
        step: Training step, counted from 0.
        row: Row of the global batch.
        position: Global position of the row.
        source: Name of the source.
        document: Number of the document in the source's token file.
        offset: First token.
        length: Tokens; all but the first are targets.
        epoch: How often the source had been gone through before.
    """

    step: int
    row: int
    position: int
    source: str
    document: int
    offset: int
    length: int
    epoch: int


def consumed(plan: TrainingPlan, packings: Mapping[str, Packing], step: int) -> list[Consumed]:
    """What a training step was trained on, by row, in the order of the segments within it.

    Args:
        plan: Of the run.
        packings: Packing plan of each source.
        step: Training step, counted from 0.
    """
    positions = plan.at(step).positions
    _, cursors = plan.cursors(positions)
    source, bins = plan.samples(positions)
    found = []
    for row, (each, chosen, cursor) in enumerate(zip(source.tolist(), bins.tolist(), cursors.tolist(), strict=True)):
        name, epoch = plan.names[each], cursor // plan.sizes[each].bins
        packing = packings[name]
        for index in range(int(packing.starts[chosen]), int(packing.starts[chosen + 1])):
            run = (int(packing.documents[index]), int(packing.offsets[index]), int(packing.lengths[index]))
            found.append(Consumed(step, row, positions[row], name, *run, epoch))
    return found


def seen(plan: TrainingPlan, packings: Mapping[str, Packing], source: str, document: int) -> list[Consumed]:
    """Where a document was trained on within the run, by rising position; nothing where it never was.

    Args:
        plan: Of the run.
        packings: Packing plan of each source.
        source: Name of the document's source.
        document: Its number in the source's token file.
    """
    number, packing = plan.names.index(source), packings[source]
    segments = np.flatnonzero(packing.documents == document)
    bins = np.searchsorted(packing.starts, segments, side="right") - 1
    size, taken = plan.sizes[number].bins, plan.taken_before(plan.end)[source]
    found = []
    for epoch in range(-(-taken // size)):
        cursors = epoch * size + index_of(bins.astype(np.int64), epoch, size, plan.source_seed(number))
        for index, cursor in zip(segments.tolist(), cursors.tolist(), strict=True):
            if cursor >= taken:
                continue
            position = plan.position_of(number, cursor)
            data = plan.batches.step_at(position)
            step = training_step(data, plan.skips)
            if step is not None:
                row = position - plan.batches.before(data)
                run = (document, int(packing.offsets[index]), int(packing.lengths[index]))
                found.append(Consumed(step, row, position, source, *run, epoch))
    return sorted(found, key=lambda each: (each.position, each.offset))


class DocumentNames:
    """Ids that the user gave to the documents of a token file: ``<split>-documents.parquet``."""

    def __init__(self, directory: Path, split: str = "train") -> None:
        """Name the file; tokens written before it was introduced lack it."""
        self.path = directory / f"{split}-documents.parquet"

    def of(self, numbers: Sequence[int]) -> list[str]:
        """The id of each document number; the number itself where there are no names.

        Raises:
            DataError: The file is damaged.
        """
        if not self.path.exists():
            return [str(number) for number in numbers]
        table = self._read(("number", "in", set(numbers)))
        found = dict(zip(table["number"].to_pylist(), table["id"].to_pylist(), strict=True))
        lacking = [number for number in numbers if number not in found]
        if lacking:
            raise DataError(f"{self.path} has no document {lacking[0]}: it belongs to other tokens")
        return [found[number] for number in numbers]

    def number(self, id: str) -> int | None:
        """The number of a document by its id, or by its number where there are no names; None if there is none.

        Raises:
            DataError: The file is damaged.
        """
        if not self.path.exists():
            return int(id) if id.isdecimal() else None
        found: list[int] = self._read(("id", "==", id))["number"].to_pylist()
        return found[0] if found else None

    def _read(self, condition: tuple[str, str, Any]) -> Any:
        """Rows that meet a condition; groups of rows that cannot hold any are not read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.path, columns=["number", "id"], filters=[condition])
        except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise DataError(f"cannot read {self.path}: {' '.join(str(error).split())}") from None
