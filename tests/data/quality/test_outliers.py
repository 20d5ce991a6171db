"""Outliers among token distributions against a plain reference in float64."""

import itertools
import math
import pickle
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tatara import config as configuration
from tatara.data.document import Document
from tatara.data.quality.config import OutliersConfig
from tatara.data.quality.features import hashed
from tatara.data.quality.outliers import Outliers
from tatara.data.steps import ShardRows, serially
from tatara.errors import ConfigError

_COMMON = [f"word{i}" for i in range(200)]


class Alive:
    """Every row but some; a class, because it travels to tasks."""

    def __init__(self, rows: Sequence[int], gone: Sequence[tuple[int, int]] = ()) -> None:
        self.rows, self.gone = rows, gone

    def __call__(self, shard: int) -> np.ndarray:
        out = np.ones(self.rows[shard], np.bool_)
        for where, row in self.gone:
            if where == shard:
                out[row] = False
        return out


def _corpus(rng: random.Random) -> list[Document]:
    documents = []
    for row in range(600):
        words = rng.choices(_COMMON, weights=[1 / (place + 1) for place in range(200)], k=rng.randint(40, 300))
        documents.append(Document(f"doc{row}", " ".join(words), f"{'ab'[row % 2]}/file.jsonl", language="en"))
    for row in (17, 150, 401):
        documents[row].text = " ".join(f"odd{rng.randrange(10**6)}" for _ in range(120))
    documents[7].text = ""
    documents[8].text = "\ud800 odd one out"
    return documents


def _run(
    root: Path, documents: list[Document], cuts: Sequence[int], gone: Sequence[str] = (), **settings: Any
) -> tuple[dict[str, tuple[str, float, float]], dict[str, Any]]:
    """Verdicts by document id."""
    step = Outliers(OutliersConfig(**settings), root)
    step.prepare()
    bounds = [0, *cuts, len(documents)]
    shards = [documents[start:end] for start, end in itertools.pairwise(bounds)]
    for index, shard in enumerate(shards):
        collector = step.collector(index)
        for row, document in enumerate(shard):
            document.row = row
        for start in range(0, len(shard), 64):
            collector.add(shard[start : start + 64])
        collector.add([])
        collector.close()
    missing = [(index, row) for index, shard in enumerate(shards) for row, d in enumerate(shard) if d.id in gone]
    alive = Alive([len(shard) for shard in shards], missing)

    def through_pickle(function: Any, items: Any) -> Any:
        # Tasks finish in any order.
        return reversed(list(serially(pickle.loads(pickle.dumps(function)), items)))

    rows = [ShardRows(index, len(shard)) for index, shard in enumerate(shards)]
    figures = step.decide(rows, alive, through_pickle, 1 << 30)
    out = {}
    for index, shard in enumerate(shards):
        removed = step.removed(index)
        assert removed.shape == (len(shard),)
        judge = step.judge(index)
        verdicts = judge(shard[: len(shard) // 2]) + judge(shard[len(shard) // 2 :])
        assert [verdict is not None for verdict in verdicts] == removed.tolist()
        for document, verdict in zip(shard, verdicts, strict=True):
            if verdict is not None:
                assert verdict.value is not None
                assert verdict.limit is not None
                out[document.id] = (verdict.reason, verdict.value, verdict.limit)
    assert figures["removed"] == len(out)
    assert step.decide(rows, alive, through_pickle, 1 << 30) == figures  # read back, not done again
    return out, figures


def _reference(documents: list[Document], config: OutliersConfig, gone: Sequence[str] = ()) -> dict[str, float]:
    """Divergence of each document from its group."""
    counts, groups = {}, {}
    totals: dict[str, Counter[int]] = defaultdict(Counter)
    for document in documents:
        tokens = hashed([document.text], 16, 1)[0].tolist()[: config.max_tokens]
        counts[document.id] = Counter(tokens)
        key = {"source": document.source.split("/")[0], "language": document.language or "", "all": ""}[config.group_by]
        groups[document.id] = key
        if document.id not in gone:
            totals[key].update(tokens)
    out = {}
    for id, mine in counts.items():
        total, n = totals[groups[id]], sum(mine.values())
        whole = sum(total.values()) + config.smoothing * 65536
        out[id] = math.fsum(
            c / n * math.log(c / n / ((total[token] + config.smoothing) / whole)) for token, c in mine.items()
        )
    return out


@pytest.mark.parametrize("group_by", ["source", "language", "all"])
def test_divergences_are_those_of_the_reference(tmp_path: Path, group_by: str) -> None:
    documents = _corpus(random.Random(1))
    config = OutliersConfig(group_by=group_by, max_divergence=3.0, max_tokens=200)  # type: ignore[arg-type]
    expected = _reference(documents, config, gone=("doc17", "doc20"))
    found, figures = _run(
        tmp_path, documents, (100, 333), ("doc17", "doc20"), group_by=group_by, max_divergence=3.0, max_tokens=200
    )
    long = {document.id for document in documents if len(document.text.split()) >= 50} - {"doc17", "doc20"}
    assert {id for id, value in expected.items() if value > 3.0 and id in long} == set(found) == {"doc150", "doc401"}
    for id, (reason, value, limit) in found.items():
        assert (reason, limit) == ("outliers.max_divergence", 3.0)
        assert value == pytest.approx(expected[id], rel=1e-6)
    assert figures["groups"] == (2 if group_by == "source" else 1)


def test_a_quantile_is_taken_among_documents_of_like_length(tmp_path: Path) -> None:
    documents = _corpus(random.Random(2))
    settings = {"group_by": "all", "quantile": 0.98, "min_documents": 60}
    found, figures = _run(tmp_path, documents, (250,), **settings)
    divergences = _reference(documents, OutliersConfig(**settings))  # type: ignore[arg-type]
    classes = defaultdict(list)
    for document in documents:
        if len(document.text.split()) >= 50:
            classes[len(document.text.split()).bit_length()].append(document.id)
    expected = set()
    for ids in classes.values():
        if len(ids) >= 60:
            kept = math.ceil(0.98 * len(ids))
            expected |= set(sorted(ids, key=divergences.__getitem__)[kept:])
    assert set(found) == expected
    assert {"doc17", "doc150", "doc401"} <= expected
    assert all(value > limit for _, value, limit in found.values())
    assert {reason for reason, _, _ in found.values()} == {"outliers.quantile"}
    assert len(figures["limits"]) == sum(len(ids) >= 60 for ids in classes.values())


def test_the_outcome_does_not_depend_on_shards(tmp_path: Path) -> None:
    outcomes = []
    for name, cuts in (("one", ()), ("many", (1, 2, 77, 300, 300, 599))):
        outcomes.append(_run(tmp_path / name, _corpus(random.Random(3)), cuts, quantile=0.97, min_documents=20))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]


def test_small_groups_and_empty_corpora_stay(tmp_path: Path) -> None:
    documents = _corpus(random.Random(4))
    assert _run(tmp_path / "few", documents[:30], (), quantile=0.5)[0] == {}
    assert _run(tmp_path / "none", [], ())[0] == {}
    assert _run(tmp_path / "gone", documents[:3], (), ("doc0", "doc1", "doc2"))[0] == {}


def test_a_limit_is_needed() -> None:
    with pytest.raises(ConfigError, match="outliers needs max_divergence or quantile"):
        configuration.load(OutliersConfig, {"quantile": None})
