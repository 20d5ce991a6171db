"""Classifiers of quality and topic: training, calibration, figures, verdicts."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from tatara import config as configuration
from tatara.data.document import Document
from tatara.data.quality.calibration import auc, calibrate, expected_calibration_error
from tatara.data.quality.config import QualityConfig, TopicsConfig, TrainingConfig
from tatara.data.quality.model import _epoch, load_model
from tatara.data.quality.quality import Quality, lomax
from tatara.data.quality.topics import Topics
from tatara.errors import ConfigError, DataError

_WORDS = {
    "sea": ["ship", "sail", "wave", "harbour", "tide", "fish", "captain", "anchor", "storm", "reef"],
    "law": ["court", "judge", "appeal", "statute", "clause", "plaintiff", "verdict", "counsel", "bail", "tort"],
    "farm": ["wheat", "cow", "barn", "tractor", "soil", "harvest", "sheep", "milk", "plough", "hay"],
}
_COMMON = ["the", "of", "and", "to", "a", "in", "is", "it", "for", "on", "was", "with", "at", "by", "one", "all"]


def _text(rng: random.Random, topic: str, share: float = 0.15) -> str:
    return " ".join(rng.choice(_WORDS[topic] if rng.random() < share else _COMMON) for _ in range(60))


def _mixed(rng: random.Random, topic: str) -> str:
    """A text that holds words of other topics too, so that none is certain."""
    return " ".join(_text(rng, topic if rng.random() < 0.6 else rng.choice(list(_WORDS)), 0.3)[:40] for _ in range(3))


def _write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, rng = tmp_path_factory.mktemp("samples"), random.Random(1)
    return {topic: _write(root / f"{topic}.jsonl", [_mixed(rng, topic) for _ in range(1500)]) for topic in _WORDS}


@pytest.fixture(scope="module")
def trained(samples: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Quality:
    step = Quality(QualityConfig(good=samples["sea"], bad=samples["law"]), tmp_path_factory.mktemp("model"))
    step.prepare()
    return step


def _documents(texts: list[str]) -> list[Document]:
    return [Document(str(row), text, "s") for row, text in enumerate(texts)]


def test_scores_are_calibrated_probabilities_of_unseen_text(trained: Quality) -> None:
    rng = random.Random(2)
    labels = [row % 2 for row in range(4000)]
    names = ("law", "sea")
    texts = [_mixed(rng, names[label]) for label in labels]
    documents = _documents(texts)
    assert trained.apply(documents) == [None] * 4000
    scores = np.array([document.scores["quality"] for document in documents])
    truth = np.array(labels)
    assert 0.8 < auc(scores, truth) < 0.98
    gaps = []
    for low in np.arange(0, 1, 0.1):
        inside = (scores >= low) & (scores < low + 0.1)
        if inside.sum() > 50:
            gaps.append((abs(scores[inside].mean() - truth[inside].mean()), inside.sum()))
    assert sum(gap * count for gap, count in gaps) / sum(count for _, count in gaps) < 0.06
    figures = trained.finish(iter(()))
    assert figures["auc"] == pytest.approx(auc(scores, truth), abs=0.06)
    assert figures["accuracy"] == pytest.approx(((scores > 0.5) == truth).mean(), abs=0.06)
    assert figures["samples"] == {"bad": 1500, "good": 1500}
    assert figures["held_out"] + figures["trained_on"] < 3000


def test_scores_do_not_depend_on_batches(trained: Quality) -> None:
    rng = random.Random(3)
    texts = [_text(rng, "sea", rng.random()) for _ in range(50)] + ["", "\ud800", "\x00" * 9, "あ" * 999, " "]
    together, alone = _documents(texts), _documents(texts)
    trained.apply(together)
    for document in alone:
        trained.apply([document])
    assert [document.scores for document in together] == [document.scores for document in alone]
    assert trained.apply([]) == []


def test_training_does_not_depend_on_how_samples_are_spread_over_files(samples: dict[str, str], tmp_path: Path) -> None:
    whole = QualityConfig(good=samples["sea"], bad=samples["law"], training=TrainingConfig(epochs=2))
    lines = Path(samples["sea"]).read_text().splitlines(keepends=True)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.jsonl").write_text("".join(lines[700:]) + lines[3])
    with gzip.open(tmp_path / "parts" / "b.jsonl.gz", "wt") as stream:
        stream.write("".join(lines[:700]))
    parts = whole.model_copy(update={"good": str(tmp_path / "parts")})
    for name, config in (("one", whole), ("two", parts)):
        Quality(config, tmp_path / name).prepare()
    assert (tmp_path / "one" / "model.npz").read_bytes() == (tmp_path / "two" / "model.npz").read_bytes()


def test_a_published_model_scores_alike_in_a_later_run(trained: Quality, tmp_path: Path) -> None:
    trained.publish(tmp_path / "out")
    later = Quality(QualityConfig(model=str(tmp_path / "out" / "quality.npz"), label="sea"), tmp_path / "later")
    later.prepare()
    first, second = _documents(["ship and court"]), _documents(["ship and court"])
    trained.apply(first)
    later.apply(second)
    assert first[0].scores["quality"] == second[0].scores["sea"]
    assert later.config.files() == (str(tmp_path / "out" / "quality.npz"),)


def test_limits_drop_documents(trained: Quality) -> None:
    good, bad = "ship sail wave the harbour", "court judge appeal the statute"
    limits = {"min_score": 0.4, "max_score": 0.6}
    for name, text in (("min_score", bad), ("max_score", good)):
        step = Quality(trained.config.model_copy(update={name: limits[name]}), trained.directory)
        verdicts = step.apply(_documents([good, bad]))
        dropped = verdicts[1 if text is bad else 0]
        assert dropped is not None
        assert (dropped.reason, dropped.limit) == (f"quality.{name}", limits[name])
        assert verdicts.count(None) == 1


def test_pareto_keeps_the_share_that_the_distribution_says(trained: Quality) -> None:
    draws = np.array([lomax(f"doc-{row}", 7, 9.0) for row in range(20_000)])
    for score in (0.0, 0.3, 0.7, 0.95):
        assert (draws > 1 - score).mean() == pytest.approx((2 - score) ** -9.0, abs=0.01)
    step = Quality(trained.config.model_copy(update={"pareto_alpha": 9.0, "seed": 7}), trained.directory)
    documents = _documents(["the wave and the court is there"] * 500)
    verdicts = step.apply(documents)
    score = documents[0].scores["quality"]
    assert [verdict is None for verdict in verdicts] == [lomax(str(row), 7, 9.0) > 1 - score for row in range(500)]
    assert {verdict.reason for verdict in verdicts if verdict} == {"quality.pareto_alpha"}


def test_topics_are_found_and_dropped(samples: dict[str, str], tmp_path: Path) -> None:
    step = Topics(TopicsConfig(samples=samples, drop=("farm",)), tmp_path)
    step.prepare()
    rng = random.Random(4)
    truth = [rng.choice(("sea", "law", "farm")) for _ in range(600)]
    documents = _documents([_text(rng, topic, 0.5) for topic in truth])
    verdicts = step.apply(documents)
    labels = [document.labels["topic"] for document in documents]
    assert np.mean([label == topic for label, topic in zip(labels, truth, strict=True)]) > 0.97
    assert [verdict is not None for verdict in verdicts] == [label == "farm" for label in labels]
    assert all(1 / 3 < document.scores["topic"] <= 1 for document in documents)
    assert documents[0].counts == {f"topics.topic.{labels[0]}": 1}
    figures = step.finish(iter(()))
    assert figures["classes"] == ["farm", "law", "sea"]
    assert 0.6 < figures["accuracy"] < 0.95
    unsure = Topics(TopicsConfig(samples=samples, min_probability=0.9999), tmp_path)
    document = _documents(["the of and to"])[0]
    unsure.apply([document])
    assert document.labels["topic"] == "unknown"


def test_one_epoch_is_adagrad() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 6, 40)
    ends, found = np.cumsum(sizes), rng.integers(0, 16, sizes.sum()).astype(np.int32)
    for classes in (2, 3):
        outputs = 1 if classes == 2 else 3
        labels, importance = rng.integers(0, classes, 40), rng.random(40) + 0.5
        weights, squares = np.zeros((16, outputs), np.float32), np.full((16, outputs), 1e-6, np.float32)
        bias = np.zeros(outputs, np.float32)
        w, g, b = np.zeros((16, outputs)), np.full((16, outputs), 1e-6), np.zeros(outputs)
        _epoch(found, ends, labels, importance, np.arange(40), weights, squares, bias, np.float32(0.3))
        for row in range(40):
            mine = found[ends[row] - sizes[row] : ends[row]]
            logits = w[mine].sum(axis=0) / np.sqrt(sizes[row]) + b
            if classes == 2:
                error = 1 / (1 + np.exp(-logits)) - labels[row]
            else:
                error = np.exp(logits) / np.exp(logits).sum() - np.eye(3)[labels[row]]
            step = error * importance[row] / np.sqrt(sizes[row])
            for feature in mine:
                g[feature] += step**2
                w[feature] -= 0.3 * step / np.sqrt(g[feature])
            b -= 0.1 * 0.3 * error * importance[row]
        np.testing.assert_allclose(weights, w, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(bias, b, rtol=2e-4, atol=1e-5)


def test_auc_counts_pairs_and_ties() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 9, 200) / 8, rng.integers(0, 2, 200)
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_calibration_finds_the_slope_that_made_the_labels() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (20_000, 1))
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits[:, 0] - 1)))).astype(np.int64)
    slope, intercept = calibrate(logits, labels, np.ones(20_000))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(-1, abs=0.06))
    many = rng.normal(0, 3, (20_000, 4))
    chances = np.exp(0.4 * many) / np.exp(0.4 * many).sum(axis=1, keepdims=True)
    picked = (chances.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert calibrate(many, picked, np.ones(20_000))[0] == pytest.approx(0.4, abs=0.02)
    apart = calibrate(np.array([[-9.0], [9.0]] * 20), np.array([0, 1] * 20), np.ones(40))
    assert 0 < apart[0] < 2


def test_calibration_error_of_known_gaps() -> None:
    confidences = np.array([0.9] * 10 + [0.5] * 10)
    right = np.array([True] * 6 + [False] * 4 + [True] * 5 + [False] * 5)
    assert expected_calibration_error(confidences, right, np.ones(20)) == pytest.approx(0.15)


def test_what_is_wrong_is_said_in_one_line(samples: dict[str, str], tmp_path: Path) -> None:
    for values, message in (
        ({}, "quality needs either model, or good and bad"),
        ({"good": "a"}, "quality needs bad as well"),
        ({"good": "a", "bad": "b", "model": "c"}, "quality needs either model, or good and bad"),
    ):
        with pytest.raises(ConfigError, match=message):
            configuration.load(QualityConfig, values)
    few = _write(tmp_path / "few.jsonl", ["one", "two", "two"])
    with pytest.raises(DataError, match=r"samples of 'good', .*few.jsonl: 2, but 100 are needed"):
        Quality(QualityConfig(good=few, bad=samples["law"]), tmp_path / "a").prepare()
    other = tmp_path / "other.jsonl"
    other.write_text('{"content": "x"}\n' * 200)
    with pytest.raises(DataError, match=r"0, but 100 are needed.*content"):
        Quality(QualityConfig(good=str(other), bad=samples["law"]), tmp_path / "b").prepare()
    with pytest.raises(DataError, match=r"few.jsonl: not a model of the steps quality or topics"):
        load_model(few)


@pytest.mark.data
def test_encyclopedia_and_web_pages_are_told_apart(sample_data: Path, tmp_path: Path) -> None:
    wiki = gzip.decompress(next((sample_data / "wikitext2-valid-test").glob("*.gz")).read_bytes()).decode()
    articles = [line.replace("@", "").strip() for line in wiki.split("\n") if len(line) > 200]
    with gzip.open(sample_data / "c4-sample" / "c4_demo.jsonl.gz", "rt", encoding="utf-8") as stream:
        pages = [line for row in stream for line in json.loads(row)["text"].split("\n") if len(line) > 200]
    assert min(len(articles), len(pages)) > 500
    files = {}
    for name, texts in (("good", articles), ("bad", pages)):
        files[name] = _write(tmp_path / f"{name}.jsonl", texts[::2])
    step = Quality(QualityConfig(**files), tmp_path / "model")  # type: ignore[arg-type]
    step.prepare()
    documents = _documents(articles[1::2] + pages[1::2])
    step.apply(documents)
    scores = np.array([document.scores["quality"] for document in documents])
    truth = np.array([1] * len(articles[1::2]) + [0] * len(pages[1::2]))
    assert auc(scores, truth) > 0.98
    assert step.finish(iter(()))["auc"] > 0.97
