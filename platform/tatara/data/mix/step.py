"""The step ``mix``: tokens are summed up by source, then each document is dropped, kept or repeated."""

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara import storage
from tatara.data.document import Document, Verdict
from tatara.data.mix.config import OTHER, MixConfig, MixSource
from tatara.data.mix.keys import SPAN, KeyCollector, Totals, find_thresholds, repeats_of, sum_over
from tatara.data.mix.shares import Wanted, shares
from tatara.data.mix.table import sources_of
from tatara.data.steps import Collector, FanOut, GlobalStep, ShardRows, Verdicts
from tatara.errors import DataError

_DECISION = "decision.json"


class MixStep(GlobalStep):
    """Weights of sources, met by dropping and repeating documents."""

    config: MixConfig

    @cached_property
    def sources(self) -> dict[str, MixSource]:
        """The sources in order, ``other`` last."""
        return sources_of(self.config)

    def prepare(self) -> None:
        """Read the table, so that a mistake in it comes to light before any shard is read."""
        _ = self.sources
        storage.make_directory(str(self.directory))

    def collector(self, shard: int) -> Collector:
        """Where a shard's keys go."""
        return KeyCollector(self.config.seed, self.source_of, self.count, self._keys(shard))

    def _keys(self, shard: int) -> Path:
        return self.directory / f"keys-{shard:06d}.npy"

    def source_of(self, document: Document) -> int:
        """Number of the source that a document belongs to, -1 for none."""
        for number, (name, source) in enumerate(self.sources.items()):
            if name == OTHER or _belongs(document, source):
                return number
        return -1

    def count(self, documents: Sequence[Document]) -> list[int]:
        """Tokens of documents, the one at the end of each included."""
        if self.config.tokenizer is not None:
            from tatara.data.tokenizer.engine import large_strings

            _, lengths = self._encoder.encode(large_strings([document.text for document in documents]))
            return [int(length) + 1 for length in lengths]
        rates = self.config.bytes_per_token
        return [round(item.size / rates.get(item.language or OTHER, rates[OTHER])) + 1 for item in documents]

    @cached_property
    def _encoder(self) -> Any:
        from tatara.data.tokenizer.directory import load
        from tatara.data.tokenizer.engine import choose, open_encoder

        assert self.config.tokenizer is not None
        serialised = load(self.config.tokenizer).tokenizer.to_str()
        return open_encoder(serialised, choose(serialised, "auto")[0])

    def decide(
        self,
        shards: Sequence[ShardRows],
        alive: Callable[[int], NDArray[np.bool_]],
        fan_out: FanOut,
        memory: int,
    ) -> dict[str, Any]:
        """Find the rate of each source; returns sources before and after, and the weights that are not met."""
        path = self.directory / _DECISION
        if path.exists():
            earlier: dict[str, Any] = json.loads(path.read_text())["figures"]
            return earlier
        number = len(self.sources)
        items = [{"shard": shard.index, "keys": str(self._keys(shard.index))} for shard in shards]
        before = sum_over(fan_out, Totals(alive, number, None), items, (number + 1, 3))
        self._check_unmatched(int(before[-1, 0]), shards)
        granted, notes = self._shares(before)
        tokens = before[:-1, 2]
        rates = granted / np.maximum(tokens, 1)
        whole = np.floor(rates + 1e-12).astype(np.int64)
        rest = np.where(whole >= rates, 0.0, granted - whole * tokens)
        thresholds = find_thresholds(fan_out, alive, items, rest)
        after = sum_over(fan_out, Totals(alive, number, (whole, thresholds)), items, (number + 1, 3))
        figures = self._figures(before, after, rates, notes)
        decision = {
            "whole": whole.tolist(), "thresholds": thresholds.tolist(), "rates": rates.tolist(),
            "rows": {str(shard.index): shard.rows for shard in shards}, "figures": figures,
        }  # fmt: skip
        storage.replace_bytes(path, json.dumps(decision).encode())
        return figures

    def _check_unmatched(self, count: int, shards: Sequence[ShardRows]) -> None:
        if not count:
            return
        names = [self._keys(shard.index).with_suffix(".unmatched").read_text() for shard in shards]
        example = next((name for name in names if name), "")
        raise DataError(
            f"mix: {count:,} documents belong to no source, for example those of {example!r}: add a source that "
            "matches them, or say what becomes of them with mix.other (weight: 0 drops them)"
        )

    def _shares(self, before: NDArray[np.int64]) -> tuple[NDArray[np.float64], list[str]]:
        natural = all(source.weight is None for source in self.sources.values() if source.weight != 0)
        wanted = []
        for (name, source), total in zip(self.sources.items(), before[:-1, 2].tolist(), strict=True):
            epochs = source.max_epochs or self.config.max_epochs
            cap, reason = epochs * total, f"max_epochs {epochs:g} of {total:,} tokens"
            if source.max_tokens is not None and source.max_tokens < cap:
                cap, reason = float(source.max_tokens), f"max_tokens {source.max_tokens:,}"
            weight = float(total) if natural and source.weight is None else float(source.weight or 0)
            wanted.append(Wanted(name, total, weight, cap, reason))
        if natural and self.config.target_tokens is None:
            # Nothing but caps is asked for: each source up to its own.
            return np.array([item.cap if item.weight else 0.0 for item in wanted]), []
        return shares(wanted, self.config.target_tokens, self.config.unmet == "error")

    def _figures(
        self, before: NDArray[np.int64], after: NDArray[np.int64], rates: NDArray[np.float64], notes: list[str]
    ) -> dict[str, Any]:
        total_before, total_after = max(int(before[:, 2].sum()), 1), max(int(after[:, 2].sum()), 1)
        rows = {}
        for i, (name, source) in enumerate(self.sources.items()):
            rows[name] = {
                "weight": source.weight,
                "rate": float(rates[i]),
                "before": {**_counts(before[i]), "share": int(before[i, 2]) / total_before},
                "after": {
                    **_counts(after[i]),
                    "share": int(after[i, 2]) / total_after,
                    "epochs": int(after[i, 2]) / max(int(before[i, 2]), 1),
                },
            }
        return {"sources": rows, "tokens": int(after[:, 2].sum()), "unmet": notes}

    @cached_property
    def _decision(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / _DECISION).read_text())
        return found

    def _decided(self, shard: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Keys of a shard, and how often each document occurs: two times ``[documents]``."""
        keys = np.load(self._keys(shard))
        rules = (np.array(self._decision["whole"], np.int64), np.array(self._decision["thresholds"], np.int64))
        return keys, repeats_of(keys, rules)

    def removed(self, shard: int) -> NDArray[np.bool_]:
        """Which rows of a shard are dropped: ``[rows]``."""
        keys, repeats = self._decided(shard)
        mask = np.zeros(self._decision["rows"][str(shard)], bool)
        mask[keys["row"][repeats == 0]] = True
        return mask

    def judge(self, shard: int) -> Callable[[Sequence[Document]], Verdicts]:
        """A function that drops documents, and sets how often the others occur."""
        keys, repeats = self._decided(shard)
        rows = keys["row"]
        rates = self._decision["rates"]

        def act(documents: Sequence[Document]) -> Verdicts:
            verdicts: Verdicts = []
            for document, place in zip(
                documents, np.searchsorted(rows, [document.row for document in documents]).tolist(), strict=True
            ):
                times = int(repeats[place])
                if times:
                    document.repeats = times
                    verdicts.append(None)
                else:
                    # The rate is what it has; from this rate on it would have stayed.
                    needed = float(keys["hash"][place]) / SPAN
                    verdicts.append(Verdict("mix.weight", value=rates[int(keys["source"][place])], limit=needed))
            return verdicts

        return act


def _belongs(document: Document, source: MixSource) -> bool:
    if not any(fnmatchcase(document.source, pattern) for pattern in source.match):
        return False
    if source.label is None:
        return True
    step, _, pattern = source.label.partition("=")
    label = document.labels.get(step)
    return label is not None and fnmatchcase(label, pattern)


def _counts(row: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(("documents", "bytes", "tokens"), row.tolist(), strict=True))
