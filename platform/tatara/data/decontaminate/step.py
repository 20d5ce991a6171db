"""The step of curation that keeps evaluations out of the corpus."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tatara.data.decontaminate import report
from tatara.data.decontaminate.benchmarks import read_items
from tatara.data.decontaminate.config import DecontaminateConfig
from tatara.data.decontaminate.index import Arrays, Names, build, excerpt, load, load_names, save
from tatara.data.decontaminate.match import Match, checked_words, matches
from tatara.data.decontaminate.tokens import Places, Table, Words, find_grams, folding_table, split_words
from tatara.data.document import Document, Verdict
from tatara.data.steps import RowStep, Verdicts
from tatara.errors import DataError

_CHUNK = 1 << 20


class Decontaminate(RowStep):
    """Finds documents that hold items of benchmarks, and keeps account of what it finds of each item."""

    config: DecontaminateConfig

    def __init__(self, config: DecontaminateConfig, directory: Path) -> None:
        super().__init__(config, directory)

    def prepare(self) -> None:
        """Read the benchmarks and write their index.

        Raises:
            DataError: A benchmark cannot be read, or holds nothing that is long enough to look for.
            ConfigError: The benchmarks are larger than the configuration allows.
        """
        config = self.config
        items = {name: read_items(name, path, config.fields.get(name, ())) for name, path in config.benchmarks.items()}
        arrays, names = build(items, config)
        for number, name in enumerate(names.benchmarks):
            states = {state for state, owner in zip(names.state, names.benchmark, strict=True) if owner == number}
            if "checked" not in states:
                raise DataError(
                    f"benchmark {name}: no item has {config.min_tokens} words (or {config.min_characters} characters "
                    "of Chinese, Japanese, ...) of its own; name longer fields or lower min_tokens"
                )
        save(self.directory, arrays, names)

    @cached_property
    def _arrays(self) -> Arrays:
        return load(self.directory)

    @cached_property
    def _names(self) -> Names:
        return load_names(self.directory)

    @cached_property
    def _table(self) -> Table:
        return folding_table()

    @cached_property
    def _checked(self) -> Places:
        return checked_words(self._arrays)

    def apply(self, documents: Sequence[Document]) -> Verdicts:
        """Look for every item of every benchmark in documents."""
        verdicts: Verdicts = [None] * len(documents)
        for first, chunk in _chunks(documents):
            words = split_words([document.text for document in chunk], self._table)
            for number, found in self._matches(words):
                verdicts[first + number] = self._judge(chunk[number], found, words, number)
        return verdicts

    def _matches(self, words: Words) -> Iterator[tuple[int, list[Match]]]:
        arrays = self._arrays
        places, grams = find_grams(words, arrays.lengths.tolist(), arrays.coarse, arrays.bitmap, arrays.grams)
        if len(places):
            yield from matches(words, places, grams, arrays, self._checked, self.config.skip)

    def _judge(self, document: Document, found: list[Match], words: Words, number: int) -> Verdict | None:
        best: dict[int, Match] = {}
        flagged = [match for match in found if self._reason(match)]
        for match in flagged:
            item = int(self._arrays.item[match.text])
            if item not in best or _rank(match) > _rank(best[item]):
                best[item] = match
        verdict, stays = None, self.config.action == "annotate"
        places = _characters(document.text, flagged, words, number)
        self._record(document, found, best, places, stays=stays)
        if not flagged:
            return None
        strongest = max(best.values(), key=_rank)
        reason = self._reason(strongest)
        value = strongest.longest if reason == "longest_overlap" else strongest.matched
        limit = getattr(self.config, reason or "min_overlap")
        if self.config.action == "drop":
            verdict = Verdict(f"decontaminate.{reason}", round(value / strongest.of, 4), limit)
        elif self.config.action == "remove":
            verdict = self._cut(document, sorted(places.values()))
        if verdict is not None:  # What did not count by itself goes with the document.
            for step, record in document.records:
                if step == self.config.step:
                    record["stays"] = False
        return verdict

    def _reason(self, match: Match) -> str | None:
        """Which limit a match exceeds."""
        if match.matched < min(int(self._arrays.least[match.text]), match.of):
            return None
        if match.matched >= self.config.min_overlap * match.of:
            return "min_overlap"
        longest = self.config.longest_overlap
        return "longest_overlap" if longest is not None and match.longest >= longest * match.of else None

    def _record(
        self,
        document: Document,
        found: list[Match],
        best: dict[int, Match],
        places: dict[int, tuple[int, int]],
        *,
        stays: bool,
    ) -> None:
        names, others = self._names, []
        for match in found:
            item = int(self._arrays.item[match.text])
            seen = [[match.text, *span] for span in report.spans(match.covered)]
            if best.get(item) is not match:
                others.append((seen, id(match) in places))
                continue
            start, stop = places[id(match)]
            benchmark = names.benchmarks[names.benchmark[item]]
            document.counts[f"decontaminate.{benchmark}"] += 1
            figures = {
                "benchmark": benchmark, "item": names.ids[item], "field": names.fields[match.text],
                "overlap": round(match.matched / match.of, 4), "longest": round(match.longest / match.of, 4),
                "start": start, "end": stop, "text": match.text, "excerpt": excerpt(document.text[start:stop]),
                "seen": seen, "stays": stays,
            }  # fmt: skip
            document.records.append((self.config.step, figures))
        # Repeated places of an item go with the best one; what is below the limits stays in the corpus.
        for goes in (True, False):
            seen = [span for spans, with_best in others if with_best is goes for span in spans]
            if seen:
                document.records.append((self.config.step, {"seen": seen, "stays": stays or not goes}))

    def _cut(self, document: Document, places: list[tuple[int, int]]) -> Verdict | None:
        """Cut matches with a window around each; what is left becomes the document's text."""
        config, text = self.config, document.text
        pieces, end = [], 0
        for start, stop in places:
            if start - config.window > end:
                pieces.append(text[end : start - config.window])
            end = max(end, min(len(text), stop + config.window))
        if end < len(text):
            pieces.append(text[end:])
        if len(pieces) > config.max_pieces:
            return Verdict("decontaminate.max_pieces", len(pieces), config.max_pieces)
        kept = [piece.strip() for piece in pieces if len(piece) >= config.min_piece and piece.strip()]
        if not kept:
            return Verdict("decontaminate.min_piece", max(map(len, pieces), default=0), config.min_piece)
        document.text = "\n\n".join(kept)
        # A text that repeats an item without end is not searched to its end.
        for _, again in self._matches(split_words([document.text], self._table)):
            rest = max((match.matched / match.of for match in again if self._reason(match)), default=0.0)
            if rest:
                return Verdict("decontaminate.min_overlap", round(rest, 4), config.min_overlap)
        document.counts["decontaminate.removed_characters"] += len(text) - sum(map(len, kept))
        return None

    def finish(self, records: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """Which items are in the corpus, and which documents held them; see `report.summarise`."""
        return report.summarise(records, self._arrays, self._names, self._checked, self.config)


def _rank(match: Match) -> tuple[float, int, int, int]:
    """Better matches are greater; among equals the first."""
    return match.matched / match.of, match.matched, -match.text, -match.start


def _chunks(documents: Sequence[Document]) -> Iterator[tuple[int, list[Document]]]:
    """Documents in runs of bounded size, each with the number of its first."""
    first, size = 0, 0
    for number, document in enumerate(documents):
        if size and size + len(document.text) > _CHUNK:
            yield first, list(documents[first:number])
            first, size = number, 0
        size += len(document.text)
    if first < len(documents):
        yield first, list(documents[first:])


def _characters(text: str, found: Sequence[Match], words: Words, number: int) -> dict[int, tuple[int, int]]:
    """First character of each match in its document, and the one after it, by the match's identity."""
    first, offset = int(words.bounds[number]), int(words.offsets[number])
    places = {
        id(match): (
            int(words.starts[first + match.start]) - offset,
            int(words.ends[first + match.stop - 1]) - offset,
        )
        for match in found
    }
    if text.isascii() or not places:
        return places
    data = np.frombuffer(text.encode("utf-8", errors="surrogatepass"), np.uint8)
    wanted = sorted({place for pair in places.values() for place in pair})
    # A character begins at each byte that does not continue one.
    counts = [int(np.count_nonzero((data[a:b] & 0xC0) != 0x80)) for a, b in itertools.pairwise([0, *wanted])]
    characters = dict(zip(wanted, itertools.accumulate(counts), strict=True))
    return {match: (characters[start], characters[stop]) for match, (start, stop) in places.items()}
