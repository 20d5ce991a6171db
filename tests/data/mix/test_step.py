import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tatara.data.document import Document
from tatara.data.mix.config import MixConfig
from tatara.data.mix.step import MixStep
from tatara.data.steps import ShardRows, serially
from tatara.errors import ConfigError, DataError

SIZES = {"web": 1500, "books": 200, "code": 500}


def corpus(seed: int = 0, sizes: dict[str, int] = SIZES) -> list[Document]:
    """Documents of several sources, of uneven length, in random order."""
    random_ = random.Random(seed)
    made = []
    for source, count in sizes.items():
        for i in range(count):
            text = "x" * min(int(random_.lognormvariate(5, 1.2)) + 1, 50_000)
            labels = {"topics": random_.choice(["science", "sport"])}
            made.append(Document(f"{source}/{i}", text, f"{source}/{i % 7}.jsonl", language="en", labels=labels))
    random_.shuffle(made)
    return made


def mix(
    documents: list[Document], config: MixConfig, directory: Path, shards: int = 3, dead: frozenset[str] = frozenset()
) -> tuple[dict[str, int], dict[str, Any]]:
    """Run the step as the pipeline would; returns how often each id occurs, and the figures."""
    step = MixStep(config, directory)
    step.prepare()
    pieces = [list(piece) for piece in np.array_split(np.array(documents, object), shards)]
    for index, piece in enumerate(pieces):
        collector = step.collector(index)
        for row, document in enumerate(piece):
            document.row = row
            document.repeats = 1
        for start in range(0, len(piece), 700):
            collector.add(piece[start : start + 700])
        collector.close()

    def alive(shard: int) -> np.ndarray:
        return np.array([document.id not in dead for document in pieces[shard]], bool)

    rows = [ShardRows(index, len(piece)) for index, piece in enumerate(pieces)]
    figures = step.decide(rows, alive, serially, 1 << 30)
    assert json.loads(json.dumps(figures)) == figures
    again = MixStep(config, directory)
    assert again.decide(rows, alive, serially, 1 << 30) == figures
    times = {}
    for index, piece in enumerate(pieces):
        removed, act = again.removed(index), again.judge(index)
        for start in range(0, len(piece), 333):
            batch = [document for document in piece[start : start + 333] if document.id not in dead]
            for document, verdict in zip(batch, act(batch), strict=True):
                assert removed[document.row] == (verdict is not None)
                times[document.id] = 0 if verdict else document.repeats
                if verdict:
                    assert verdict.reason == "mix.weight"
                    assert verdict.value is not None
                    assert verdict.limit is not None
                    assert verdict.limit > 0
    return times, figures


def tokens_of(document: Document) -> int:
    return round(len(document.text) / 4) + 1


def realised(documents: list[Document], times: dict[str, int]) -> dict[str, int]:
    """Tokens of each source, counted one document at a time."""
    found: Counter[str] = Counter()
    for document in documents:
        found[document.source.split("/")[0]] += tokens_of(document) * times[document.id]
    return dict(found)


def by_folder(**sources: dict[str, Any]) -> dict[str, Any]:
    return {name: {"match": f"{name}/*", **values} for name, values in sources.items()}


def test_shares_and_total_are_met_as_nearly_as_documents_allow(tmp_path: Path) -> None:
    documents = corpus()
    longest = max(map(tokens_of, documents))
    weights = {"web": 0.5, "books": 0.3, "code": 0.2}
    config = MixConfig.model_validate(
        {
            "sources": by_folder(**{name: {"weight": weight} for name, weight in weights.items()}),
            "target_tokens": 120_000, "max_epochs": 8,
        }
    )  # fmt: skip
    times, figures = mix(documents, config, tmp_path)
    found = realised(documents, times)
    for name, weight in weights.items():
        assert abs(found[name] - weight * 120_000) <= longest / 2 + 1
        row = figures["sources"][name]
        assert row["after"]["tokens"] == found[name]
        assert row["after"]["share"] == pytest.approx(found[name] / sum(found.values()))
        mine = [item for item in documents if item.source.startswith(name)]
        assert row["before"]["tokens"] == sum(map(tokens_of, mine))
        assert row["before"]["bytes"] == sum(len(item.text) for item in mine)
        assert row["after"]["documents"] == sum(times[item.id] > 0 for item in mine)
        assert row["after"]["epochs"] == pytest.approx(found[name] / sum(map(tokens_of, mine)))
    assert figures["unmet"] == []
    assert figures["tokens"] == sum(found.values())


def test_without_a_total_the_scarcest_source_decides(tmp_path: Path) -> None:
    documents = corpus()
    config = MixConfig.model_validate(
        {"sources": by_folder(web={"weight": 1}, books={"weight": 2, "max_epochs": 3}, code={"weight": 1})}
    )
    times, figures = mix(documents, config, tmp_path)
    natural = realised(documents, {document.id: 1 for document in documents})
    total = min(natural["web"] / 0.25, 3 * natural["books"] / 0.5, natural["code"] / 0.25)
    found = realised(documents, times)
    assert sum(found.values()) == pytest.approx(total, rel=0.02)
    assert found["books"] / sum(found.values()) == pytest.approx(0.5, abs=0.01)
    assert max(times[item.id] for item in documents if item.source.startswith("books")) <= 3
    assert figures["unmet"] == []


def test_shards_and_order_make_no_difference(tmp_path: Path) -> None:
    config = MixConfig.model_validate(
        {"sources": by_folder(web={"weight": 1}, books={"weight": 1}, code={"weight": 1}), "max_epochs": 2.5}
    )
    expected = mix(corpus(), config, tmp_path / "a", shards=1)
    shuffled = corpus()
    random.Random(9).shuffle(shuffled)
    assert mix(shuffled, config, tmp_path / "b", shards=8) == expected
    reseeded, _ = mix(corpus(), config.model_copy(update={"seed": 2}), tmp_path / "c")
    assert reseeded != expected[0]


def test_a_lower_rate_keeps_a_subset(tmp_path: Path) -> None:
    documents = corpus()
    earlier: dict[str, int] | None = None
    for target in (20_000, 60_000, 150_000, 500_000):
        config = MixConfig.model_validate(
            {
                "sources": by_folder(web={"weight": 1}, books={"weight": 1}, code={"weight": 1}),
                "target_tokens": target, "max_epochs": 20,
            }
        )  # fmt: skip
        times, _ = mix(documents, config, tmp_path / str(target))
        if earlier is not None:
            assert all(times[id] >= count for id, count in earlier.items())
        assert max(times.values()) - min(times.values()) >= 1
        earlier = times


def test_repetition_is_even_within_a_source(tmp_path: Path) -> None:
    documents = corpus()
    config = MixConfig.model_validate(
        {"sources": by_folder(web={"weight": 1}, books={"weight": 1}, code={"weight": 1}), "max_epochs": 6}
    )
    times, figures = mix(documents, config, tmp_path)
    spread: dict[str, set[int]] = defaultdict(set)
    for document in documents:
        spread[document.source.split("/")[0]].add(times[document.id])
    for name, values in spread.items():
        rate = figures["sources"][name]["rate"]
        assert values <= {int(rate), int(rate) + 1}


def test_what_is_too_small_is_explained_and_shared_among_the_others(tmp_path: Path) -> None:
    documents = corpus()
    natural = realised(documents, {document.id: 1 for document in documents})
    parameters: dict[str, Any] = {
        "sources": by_folder(
            web={"weight": 1, "max_epochs": 9}, books={"weight": 2}, code={"weight": 1, "max_tokens": 2000},
            news={"weight": 1},
        ),
        "target_tokens": 3 * natural["books"],
    }  # fmt: skip
    times, figures = mix(documents, MixConfig.model_validate(parameters), tmp_path / "a")
    found = realised(documents, times)
    assert found["books"] == natural["books"]
    assert found["code"] == pytest.approx(2000, abs=max(map(tokens_of, documents)))
    assert sum(found.values()) == pytest.approx(parameters["target_tokens"], rel=0.02)
    notes = " ".join(figures["unmet"])
    assert "news: weight 1, but there is no document of it" in notes
    assert "max_epochs 1 of" in notes
    assert "max_tokens 2,000" in notes
    with pytest.raises(DataError, match=r"news: weight 1.*set unmet: renormalise"):
        mix(documents, MixConfig.model_validate({**parameters, "unmet": "error"}), tmp_path / "b")


def test_documents_of_no_source(tmp_path: Path) -> None:
    documents = corpus()
    sources = by_folder(web={"weight": 1}, books={"weight": 1})
    with pytest.raises(DataError, match=r"500 documents belong to no source, for example those of 'code/"):
        mix(documents, MixConfig.model_validate({"sources": sources}), tmp_path / "a")
    dropping = MixConfig.model_validate({"sources": sources, "other": {"weight": 0}})
    times, figures = mix(documents, dropping, tmp_path / "b")
    assert all(times[item.id] == 0 for item in documents if item.source.startswith("code"))
    assert figures["sources"]["other"]["before"]["documents"] == 500
    keeping = MixConfig.model_validate({"sources": by_folder(web={"max_tokens": 5000}), "other": {}})
    times, _ = mix(documents, keeping, tmp_path / "c")
    assert all(times[item.id] == 1 for item in documents if not item.source.startswith("web"))
    assert realised(documents, times)["web"] == pytest.approx(5000, abs=max(map(tokens_of, documents)))


def test_labels_and_the_dead(tmp_path: Path) -> None:
    documents = corpus()
    dead = frozenset(item.id for item in documents if item.id.endswith("3"))
    config = MixConfig.model_validate(
        {"sources": {"science": {"label": "topics=sci*", "weight": 3}, "rest": {"weight": 1}}}
    )
    times, figures = mix(documents, config, tmp_path, dead=dead)
    tokens = Counter[str]()
    living = [item for item in documents if item.id not in dead]
    for item in living:
        tokens[item.labels["topics"]] += tokens_of(item) * times[item.id]
    assert tokens["science"] / tokens.total() == pytest.approx(0.75, abs=0.01)
    assert sum(row["before"]["documents"] for row in figures["sources"].values()) == len(living)


@pytest.mark.parametrize("suffix", ["csv", "yaml", "parquet"])
def test_a_table_says_the_same(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"name": "web", "match": "web/*", "weight": 2.0, "max_tokens": None},
        {"name": "books", "match": "books/*", "weight": 1.0, "max_tokens": 20_000},
        {"name": "code", "match": "code/*", "weight": 1.5, "max_tokens": None},
    ]
    path = tmp_path / f"mix.{suffix}"
    if suffix == "csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join(["name,match,weight,max_tokens", *lines]) + "\n")
    elif suffix == "yaml":
        path.write_text(json.dumps({row["name"]: {k: v for k, v in row.items() if k != "name"} for row in rows}))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    config = MixConfig(table=str(path), target_tokens=100_000)
    assert config.files() == (str(path),)
    written = {row["name"]: {k: v for k, v in row.items() if k != "name" and v is not None} for row in rows}
    direct = MixConfig.model_validate({"sources": written, "target_tokens": 100_000})
    assert mix(corpus(), config, tmp_path / "a") == mix(corpus(), direct, tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,weight\nweb,x\n", "weight"),
        ("name,weight\nweb,1\nweb,2\n", "'web' cannot be a source's name"),
        ("name,weight\nweb,1\nbooks,\n", "'books' has no weight"),
        ("name,wait\nweb,1\n", "did you mean 'weight'"),
        ("name,weight\n", "holds no sources"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mix.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        MixStep(MixConfig(table=str(path)), tmp_path).prepare()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sources": {"a": {}}, "table": "x.csv"},
        {"sources": {"a": {"weight": 1}, "b": {}}},
        {"sources": {"a": {"weight": 0}}},
        {"sources": {"other": {"weight": 1}}},
        {"sources": {"a": {"label": "science"}}},
        {"sources": {"a": {}}, "bytes_per_token": {"en": 0}},
    ],
)
def test_a_wrong_mixture_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MixConfig.model_validate(values)


def test_tokens_by_language_or_counted(tmp_path: Path) -> None:
    from tatara.data.tokenizer.directory import save
    from tatara.data.tokenizer.splits import SPLITS
    from tatara.data.tokenizer.training import count_words, train

    texts = ["the cat sat on the mat " * 20, "日本語の文章です。" * 30, "", "lone \ud800 surrogate \x00"]
    documents = [Document(str(i), text, "s", language=("en", "ja", None, "en")[i]) for i, text in enumerate(texts)]
    sources = {"all": {}}
    config = MixConfig.model_validate({"sources": sources, "bytes_per_token": {"ja": 3.0, "other": 5.0}})
    estimated = MixStep(config, tmp_path).count(documents)
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    assert estimated == [round(size / rate) + 1 for size, rate in zip(sizes, (5, 3, 5, 5), strict=True)]

    trained = train(count_words(texts, SPLITS["qwen3.5"]), 300, "qwen3.5")
    save(trained, tmp_path / "tokenizer", 128)
    config = MixConfig.model_validate({"sources": sources, "tokenizer": str(tmp_path / "tokenizer")})
    assert config.files() == (str(tmp_path / "tokenizer/tokenizer.json"),)
    counted = MixStep(config, tmp_path).count(documents)
    assert counted == [len(trained.encode(text.encode("utf-8", "replace").decode()).ids) + 1 for text in texts]


def test_nothing_of_the_wanted(tmp_path: Path) -> None:
    config = MixConfig.model_validate({"sources": {"a": {"match": "nowhere", "weight": 1}}, "other": {"weight": 0}})
    with pytest.raises(DataError, match="no source with a weight has any documents"):
        mix(corpus(sizes={"web": 10}), config, tmp_path)
