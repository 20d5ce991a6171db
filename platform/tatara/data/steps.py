"""What a step of curation is: its configuration, and the two shapes that its work can have.

A `RowStep` looks at documents one by one (or a batch at a time) and may change or drop them. A `GlobalStep` has to see
keys of every document before it can decide about any: deduplication, statistics of a source, mixing. Neither knows how
documents are spread over shards, and the outcome never depends on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tatara.config import Config
from tatara.data.document import Document, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdicts = list[Verdict | None]
FanOut = Callable[[Callable[[dict[str, Any]], Any], Sequence[Mapping[str, Any]]], Iterable[Any]]
"""Runs a function over records (literals and bytes) in tasks of one CPU each; yields results as they complete."""


class Selection(Config):
    """Which documents a step looks at; the others pass untouched. Empty means every one."""

    languages: tuple[str, ...] = ()
    """ISO 639-1 codes."""
    kinds: tuple[str, ...] = ()
    """``text``, ``code``, ``mathematics``."""
    sources: tuple[str, ...] = ()
    """Shell patterns over a document's source."""


class StepConfig(Config):
    """Base of a step's parameters."""

    step: ClassVar[str]
    """Name under which a pipeline lists the step; reasons for drops begin with it."""
    implementation: ClassVar[str]
    """``module:Class``, a `RowStep` or a `GlobalStep`, imported where the work is done."""
    light: ClassVar[bool] = False
    """Whether doing the step again is cheaper than storing what it lets pass."""

    only: Selection = Selection()
    """Which documents the step looks at."""

    def files(self) -> tuple[str, ...]:
        """Files, directories or globs that the step reads: their content belongs to the pipeline's identity."""
        return ()


class RowStep(ABC):
    """A step that judges documents without knowing the others.

    It is made once on the driver, where `prepare` runs, then in every task, where it is called with batches. What
    `prepare` finds out is left in ``directory``, which every task can read.
    """

    def __init__(self, config: Any, directory: Path) -> None:
        self.config = config
        self.directory = directory

    def prepare(self) -> None:  # noqa: B027
        """Do once, on the driver, what all tasks need: train a classifier, index benchmarks. Must be repeatable."""

    @abstractmethod
    def apply(self, documents: Sequence[Document]) -> Verdicts:
        """Judge, and perhaps change, documents; a verdict for each, None where it stays."""

    def finish(self, records: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """What the run report says of the step.

        Args:
            records: (document id, what the step appended to ``Document.records``), over all shards, in order.

        Returns:
            JSON-able data, empty for nothing.
        """
        return {}

    def publish(self, output: Path) -> None:  # noqa: B027
        """Write what later runs can be given, such as a trained model, below a directory of the artifact."""


class EachStep(RowStep):
    """A row step that looks at one document at a time."""

    @abstractmethod
    def judge(self, document: Document) -> Verdict | None:
        """Judge, and perhaps change, one document; None where it stays."""

    def apply(self, documents: Sequence[Document]) -> Verdicts:
        """Judge documents one after the other."""
        return [self.judge(document) for document in documents]


class Collector(Protocol):
    """Takes the keys of one shard's documents."""

    def add(self, documents: Sequence[Document]) -> None:
        """Take a batch; ``Document.row`` says which row of the shard each is, ascending, with gaps."""

    def close(self) -> None:
        """Write what was collected, under names that appear only when they are whole."""


@dataclass(frozen=True)
class ShardRows:
    """A shard as a global step knows it.

    Attributes:
        index: Its number; shards are in the order of the corpus.
        rows: Documents in it when keys were collected; rows are numbered below this.
    """

    index: int
    rows: int


class GlobalStep(ABC):
    """A step that sees keys of every document before it decides about any.

    1. In each shard's task, `collector` takes keys while documents pass by.
    2. On the driver, `decide` works through the keys, in tasks, within a bound of memory, out of core.
    3. In each shard's task, `judge` hands down the verdicts as the documents pass again.

    Everything is kept in files in ``directory``, on storage that all nodes share. Whatever exists whole is not done
    again after a restart. Several global steps may collect in the same pass; each then decides about what those before
    it left alive.
    """

    def __init__(self, config: Any, directory: Path) -> None:
        self.config = config
        self.directory = directory

    def prepare(self) -> None:  # noqa: B027
        """Do once, on the driver, before any shard, what all tasks need. Must be repeatable."""

    @abstractmethod
    def collector(self, shard: int) -> Collector:
        """Where a shard's keys go."""

    @abstractmethod
    def decide(
        self,
        shards: Sequence[ShardRows],
        alive: "Callable[[int], NDArray[np.bool_]]",
        fan_out: FanOut,
        memory: int,
    ) -> dict[str, Any]:
        """Decide about every collected document.

        Args:
            shards: The shards, in order.
            alive: Shard number to which of its rows are still there: ``[rows]``. Can be pickled, so that tasks ask.
                May have a method ``gained``, which says what copies rows stand for by steps before this one.
            fan_out: Runs tasks.
            memory: Bytes that one task may use.

        Returns:
            Figures for the report, JSON-able.
        """

    @abstractmethod
    def removed(self, shard: int) -> "NDArray[np.bool_]":
        """Which rows of a shard the decision removes: ``[rows]``."""

    def gained(self, shard: int) -> "NDArray[np.int64] | None":
        """How many more copies each row of a shard stands for by the decision: ``[rows]``; None for none."""
        return None

    @abstractmethod
    def judge(self, shard: int) -> Callable[[Sequence[Document]], Verdicts]:
        """A function that is called with a shard's documents in order, in batches, and hands down the verdicts.

        It may change documents too: drop lines, set ``copies``, ``cluster`` and ``repeats``.
        """

    def publish(self, output: Path) -> None:  # noqa: B027
        """Write what later runs need, such as an index of what is known now, below a directory of the artifact."""


def serially(function: Callable[[dict[str, Any]], Any], items: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """The `FanOut` of tests and small inputs: one after the other, in this process."""
    for item in items:
        yield function(dict(item))


STEPS: dict[str, str] = {
    "extract": "tatara.data.extract.config:ExtractConfig",
    "repair": "tatara.data.text.config:RepairConfig",
    "kind": "tatara.data.special.config:KindConfig",
    "url_filter": "tatara.data.filters.config:UrlFilterConfig",
    "length": "tatara.data.filters.config:LengthConfig",
    "language": "tatara.data.language.config:LanguageConfig",
    "c4_lines": "tatara.data.filters.config:C4LinesConfig",
    "c4": "tatara.data.filters.config:C4Config",
    "gopher_quality": "tatara.data.filters.config:GopherQualityConfig",
    "gopher_repetition": "tatara.data.filters.config:GopherRepetitionConfig",
    "fineweb": "tatara.data.filters.config:FineWebConfig",
    "japanese": "tatara.data.filters.config:JapaneseConfig",
    "repetition": "tatara.data.filters.config:RepetitionConfig",
    "bad_words": "tatara.data.filters.config:BadWordsConfig",
    "code": "tatara.data.special.config:CodeConfig",
    "mathematics": "tatara.data.special.config:MathematicsConfig",
    "pii": "tatara.data.pii.config:PiiConfig",
    "quality": "tatara.data.quality.config:QualityConfig",
    "topics": "tatara.data.quality.config:TopicsConfig",
    "outliers": "tatara.data.quality.config:OutliersConfig",
    "url_dedup": "tatara.data.dedup.config:UrlDedupConfig",
    "exact_dedup": "tatara.data.dedup.config:ExactDedupConfig",
    "line_dedup": "tatara.data.dedup.config:LineDedupConfig",
    "fuzzy_dedup": "tatara.data.dedup.config:FuzzyDedupConfig",
    "semantic_dedup": "tatara.data.dedup.config:SemanticDedupConfig",
    "decontaminate": "tatara.data.decontaminate.config:DecontaminateConfig",
    "mix": "tatara.data.mix.config:MixConfig",
}
"""Step name to its configuration class; none of these modules imports anything heavy."""
