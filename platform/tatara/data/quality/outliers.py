"""The step that drops documents whose token distribution is far from that of the documents around them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara.data.document import Document, Verdict
from tatara.data.quality.config import OutliersConfig
from tatara.data.quality.divergence import BINS, ShardTokens, TokenCollector, log_shares, save
from tatara.data.steps import Collector, FanOut, GlobalStep, ShardRows, Verdicts

Alive = Callable[[int], NDArray[np.bool_]]

_STEPS_PER_NAT = 2048
_MAX_NATS = 32
_LENGTHS = 17
"""Classes of length: 1 token, 2 to 3, 4 to 7, ..."""


class Outliers(GlobalStep):
    """See `OutliersConfig`.

    Short documents have larger divergences than long ones from any distribution, so a quantile is taken among
    documents of a group whose lengths, in tokens, lie between the same powers of two.
    """

    config: OutliersConfig

    def collector(self, shard: int) -> Collector:
        """Where a shard's token counts go."""
        return TokenCollector(self.config, _tokens_of(self.directory, shard))

    def decide(self, shards: Sequence[ShardRows], alive: Alive, fan_out: FanOut, memory: int) -> dict[str, Any]:
        """Sum up the groups, measure every document, find the limits; three passes over the shards in tasks."""
        decision = self.directory / "decision.json"
        if decision.exists():
            found: dict[str, Any] = json.loads(decision.read_text())
            return found
        items = [{"shard": shard.index} for shard in shards]
        totals = self._totals(fan_out(partial(_sum_shard, self.directory, alive), items))
        names = sorted(totals)
        shares = log_shares(np.array([totals[name] for name in names]).reshape(-1, BINS), self.config.smoothing)
        save(self.directory / "groups.npz", {"names": np.array([_hex(name) for name in names]), "log_shares": shares})
        counts: dict[tuple[str, int], Counter[int]] = {}
        for part in fan_out(partial(_measure_shard, self.directory, alive, self.config), items):
            for name, length, steps in part:
                counts.setdefault((name, length), Counter()).update(dict(steps))
        limits = {key: limit for key, found in counts.items() if (limit := self._limit(found)) is not None}
        listed = [[name, length, limit] for (name, length), limit in sorted(limits.items())]
        _write(self.directory / "limits.json", json.dumps(listed))
        removed = sum(fan_out(partial(_remove_shard, self.directory, alive, self.config), items))
        figures = {"groups": len(names), "removed": int(removed), "limits": listed}
        _write(decision, json.dumps(figures))
        return figures

    def removed(self, shard: int) -> NDArray[np.bool_]:
        """Which rows the decision removes."""
        with np.load(_removed_of(self.directory, shard)) as stored:
            return np.asarray(stored["removed"])

    def judge(self, shard: int) -> Callable[[Sequence[Document]], Verdicts]:
        """Hand down the verdicts of a shard."""
        with np.load(_removed_of(self.directory, shard)) as stored:
            removed, divergences, limits = stored["removed"], stored["divergences"], stored["limits"]
        key = "max_divergence" if self.config.max_divergence is not None else "quantile"

        def verdict(document: Document) -> Verdict | None:
            row = document.row
            if not removed[row]:
                return None
            return Verdict(f"outliers.{key}", float(divergences[row]), float(limits[row]))

        return lambda documents: [verdict(document) for document in documents]

    def _totals(self, parts: Iterable[Sequence[tuple[str, bytes]]]) -> dict[str, NDArray[np.int64]]:
        totals: dict[str, NDArray[np.int64]] = {}
        for part in parts:
            for name, counts in part:
                mine = totals.setdefault(name, np.zeros(BINS, np.int64))
                mine += np.frombuffer(counts, np.int64)
        return totals

    def _limit(self, steps: Counter[int]) -> float | None:
        """Divergence above which documents of a group and length are dropped; None where there are too few of them."""
        total = sum(steps.values())
        if total < self.config.min_documents:
            return None
        if self.config.max_divergence is not None:
            return self.config.max_divergence
        below = 0
        for step in sorted(steps):
            below += steps[step]
            if below >= float(self.config.quantile or 1) * total:
                return (step + 1) / _STEPS_PER_NAT
        return None


def _tokens_of(directory: Path, shard: int) -> Path:
    return directory / "tokens" / f"{shard:06d}"


def _removed_of(directory: Path, shard: int) -> Path:
    return directory / "removed" / f"{shard:06d}.npz"


def _hex(name: str) -> str:
    return name.encode("utf-8", "surrogatepass").hex()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def _sum_shard(directory: Path, alive: Alive, item: dict[str, Any]) -> list[tuple[str, bytes]]:
    """A shard's token counts by group; documents that are gone do not count."""
    tokens = ShardTokens(_tokens_of(directory, item["shard"]))
    sums = tokens.histograms(alive(item["shard"])[tokens.rows])
    return [(name, counts.tobytes()) for name, counts in zip(tokens.names, sums, strict=True)]


def _measured(directory: Path, shard: int) -> tuple[ShardTokens, NDArray[np.float64]]:
    tokens = ShardTokens(_tokens_of(directory, shard))
    with np.load(directory / "groups.npz") as stored:
        places = {name: place for place, name in enumerate(stored["names"].tolist())}
        shares = stored["log_shares"][[places[_hex(name)] for name in tokens.names]].reshape(-1, BINS)
    return tokens, tokens.divergences(shares)


def _lengths(tokens: NDArray[np.int64], config: OutliersConfig) -> NDArray[np.int64]:
    """Class of length of each document; all one where the limit is the same for all."""
    classes = np.frexp(tokens.astype(np.float64))[1].astype(np.int64)
    return np.zeros_like(classes) if config.max_divergence is not None else np.minimum(classes, _LENGTHS)


def _measure_shard(
    directory: Path, alive: Alive, config: OutliersConfig, item: dict[str, Any]
) -> list[tuple[str, int, list[tuple[int, int]]]]:
    """How many documents of each group and length have which divergence, in steps."""
    tokens, divergences = _measured(directory, item["shard"])
    chosen = alive(item["shard"])[tokens.rows] & (tokens.tokens >= config.min_tokens)
    steps = np.clip(divergences * _STEPS_PER_NAT, 0, _MAX_NATS * _STEPS_PER_NAT).astype(np.int64)
    lengths = _lengths(tokens.tokens, config)
    out = []
    for group, length in sorted(set(zip(tokens.groups[chosen].tolist(), lengths[chosen].tolist(), strict=True))):
        mine = chosen & (tokens.groups == group) & (lengths == length)
        values, counts = np.unique(steps[mine], return_counts=True)
        out.append((tokens.names[group], length, list(zip(values.tolist(), counts.tolist(), strict=True))))
    return out


def _remove_shard(directory: Path, alive: Alive, config: OutliersConfig, item: dict[str, Any]) -> int:
    """Write which rows go, their divergences and limits; returns how many."""
    shard = item["shard"]
    there = alive(shard)
    tokens, divergences = _measured(directory, shard)
    limits = {(name, length): limit for name, length, limit in json.loads((directory / "limits.json").read_text())}
    classes = zip(tokens.groups.tolist(), _lengths(tokens.tokens, config).tolist(), strict=True)
    allowed = np.array([limits.get((tokens.names[group], length), np.inf) for group, length in classes], np.float64)
    drop = (divergences > allowed) & (tokens.tokens >= config.min_tokens) & there[tokens.rows]
    arrays: dict[str, NDArray[Any]] = {"removed": np.zeros(there.size, np.bool_)}
    arrays["removed"][tokens.rows] = drop
    for key, values in (("divergences", divergences), ("limits", allowed)):
        arrays[key] = np.zeros(there.size, np.float32)
        arrays[key][tokens.rows] = values
    path = _removed_of(directory, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, arrays)
    return int(drop.sum())
