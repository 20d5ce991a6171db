"""Train the classifier of the HTML extractor, and say how good it is on sites that it was not trained on.

    python tests/benchmarks/train_extract.py --articles DIR --pages DIR [--out FILE] [--folds DIR]

``--articles`` is a directory in the form of scrapinghub/article-extraction-benchmark (``ground-truth.json.gz`` and
``html/<id>.html.gz``); blocks are labelled by aligning a page's words with the article's. ``--pages`` is the ``tests``
directory of a checkout of adbar/trafilatura (``evaldata.json``, ``cache/``, ``eval/``), or that of the sample data
(``evaldata.json``, ``pages.tar.gz``): phrases that must and must not be found label the blocks they are in, and the
others learn, with less weight, from what trafilatura's four modes agree on, the less the more phrases one gets wrong.

Pages are split by site into folds. The second forest sees what the first says of pages that it was not trained on, in
training as in use. Needs ``lightgbm`` and ``trafilatura``. The published weights come from all pages; ``--folds``
writes those of the folds, with which the tests measure.
"""

import argparse
import difflib
import html
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from extract_sets import (
    Page,
    article_counts,
    article_scores,
    article_words,
    articles,
    fold_of,
    normal,
    phrase_counts,
    phrase_scores,
    phrases,
)  # fmt: skip
from numpy.typing import NDArray

from tatara.data.extract.counts import LENGTH
from tatara.data.extract.encoding import decode
from tatara.data.extract.features import measure
from tatara.data.extract.score import Forest, in_context, predict
from tatara.data.extract.structure import BREAK
from tatara.data.extract.tokens import tokenize
from tatara.data.extract.tree import build

FOLDS = 5
INNER = 3
_COMMON = {
    "objective": "binary", "min_data_in_leaf": 40, "feature_fraction": 0.3, "bagging_fraction": 0.7,
    "bagging_freq": 1, "lambda_l2": 5.0, "max_bin": 63, "verbose": -1, "seed": 0, "deterministic": True,
    "force_row_wise": True,
}  # fmt: skip
_FIRST = ({"num_leaves": 8, "learning_rate": 0.15}, 60)
_SECOND = ({"num_leaves": 16, "learning_rate": 0.1}, 100)
_TEACHER_WEIGHT = 0.6
_PHRASE_WEIGHT = 4.0
_TRUST = (1.0, 0.25)
_DISTRUST = 0.08


@dataclass
class Sample:
    """A page, measured and labelled; arrays are over its blocks."""

    page: Page
    elements: NDArray[np.int32]
    blocks: NDArray[np.int32]
    counts: NDArray[np.int64]
    features: NDArray[np.float32]
    texts: list[str]
    labels: NDArray[np.float64]
    weights: NDArray[np.float64]

    def second(self, chances: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features of the second look."""
        return in_context(self.elements, self.blocks, self.counts, self.features, chances)


def coverage(blocks: Sequence[list[str]], wanted: list[str]) -> NDArray[np.float64]:
    """The share of each block's words that an alignment finds in the wanted text: ``[blocks]``."""
    words = [word for block in blocks for word in block]
    hits = np.zeros(len(words) + 1)
    for match in difflib.SequenceMatcher(None, words, wanted, autojunk=False).get_matching_blocks():
        hits[match.a : match.a + match.size] = 1
    ends = np.cumsum([len(block) for block in blocks])
    sums = np.concatenate([[0.0], np.cumsum(hits)])
    starts = ends - [len(block) for block in blocks]
    return (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1)


def teach(
    page: Page, blocks: Sequence[list[str]], lengths: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels and weights of a page of which only phrases are known."""
    import trafilatura

    modes = ({}, {"fast": True}, {"favor_precision": True}, {"favor_recall": True})
    votes, trust = [], []
    for mode in modes:
        text = trafilatura.extract(page.content, include_comments=False, include_tables=True, **mode) or ""
        _, wrong, missed, _ = phrase_counts(page, text)
        votes.append(coverage(blocks, article_words(text)))
        trust.append(_TRUST[wrong + missed] if wrong + missed < len(_TRUST) else _DISTRUST)
    share = np.average(votes, axis=0, weights=trust)
    weights = 20 * np.sqrt(lengths) / np.sqrt(max(float((lengths * share).sum()), 200.0)) * max(trust) * _TEACHER_WEIGHT
    weights *= np.where(np.abs(share - 0.5) < 0.3, 0.3, 1.0)
    return (share > 0.5).astype(float), weights


def apply_phrases(page: Page, texts: Sequence[str], labels: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Correct labels with the phrases, which people chose."""
    spaced = [normal(text) for text in texts]
    taught = labels.copy()
    for wanted, listed in ((1.0, page.wanted), (0.0, page.unwanted)):
        for phrase in map(normal, listed):
            found = [block for block, text in enumerate(spaced) if phrase in text]
            if wanted and len(found) > 1:  # in a teaser, too: the place that the teachers take
                found = [block for block in found if taught[block] > 0.5]
            labels[found] = wanted
            weights[found] = np.maximum(weights[found], _PHRASE_WEIGHT)


def sample(page: Page) -> Sample | None:
    """Measure and label a page; None where it has no text."""
    raw = decode(page.content)[0].encode("utf-8", errors="replace")
    data = np.frombuffer(raw, dtype=np.uint8)
    elements, segments, blocks, title = build(data, tokenize(data), b"math/tex" in raw)
    if not len(blocks):
        return None
    features, counts, _, _ = measure(data, elements, segments, blocks, title)
    texts = []
    for _, first, last in blocks:
        parts = [b" " if kind == BREAK else raw[start:end] for kind, start, end, _ in segments[first:last]]
        texts.append(re.sub(r"\s+", " ", html.unescape(b"".join(parts).decode("utf-8", errors="replace"))).strip())
    words, lengths = [article_words(text) for text in texts], counts[:, LENGTH].astype(float)
    if page.article is not None:
        labels = (coverage(words, article_words(page.article)) > 0.5).astype(float)
        weights = 20 * np.sqrt(lengths) / np.sqrt(max(float(lengths[labels > 0].sum()), 200.0))
    else:
        labels, weights = teach(page, words, lengths)
        apply_phrases(page, texts, labels, weights)
    return Sample(page, elements, blocks, counts, features, texts, labels, weights)


def fit(
    samples: Sequence[Sample], features: Sequence[NDArray[np.float32]], settings: tuple[dict[str, Any], int]
) -> Forest:
    """Boost trees, and bring them into our form."""
    labels, weights = (np.concatenate([getattr(each, name) for each in samples]) for name in ("labels", "weights"))
    data = lightgbm.Dataset(np.concatenate(features), labels, weight=weights, params={"max_bin": 63, "verbose": -1})
    return forest(lightgbm.train({**_COMMON, **settings[0]}, data, settings[1]))


def forest(booster: "lightgbm.Booster") -> Forest:
    """Flat tables of a booster's trees."""
    roots: list[int] = []
    nodes: list[tuple[int, np.float32]] = []
    children: list[list[int]] = []
    leaves: list[float] = []

    def walk(node: dict[str, Any]) -> int:
        if "leaf_value" in node:
            leaves.append(node["leaf_value"])
            return -len(leaves)
        limit = np.float32(node["threshold"])
        # Features are float32: the largest one that is not above the threshold decides alike.
        limit = limit if limit <= node["threshold"] else np.nextafter(limit, np.float32(-np.inf))
        place = len(nodes)
        nodes.append((node["split_feature"], limit))
        children.append([0, 0])
        children[place] = [walk(node["left_child"]), walk(node["right_child"])]
        return place

    for tree in booster.dump_model()["tree_info"]:
        roots.append(walk(tree["tree_structure"]))
    return Forest(
        np.array(roots, dtype=np.int32), np.array([feature for feature, _ in nodes], dtype=np.int16),
        np.array([limit for _, limit in nodes], dtype=np.float32), np.array(children, dtype=np.int16),
        np.array(leaves, dtype=np.float32),
    )  # fmt: skip


def train(samples: Sequence[Sample]) -> tuple[Forest, Forest]:
    """Both forests."""
    seen: dict[int, NDArray[np.float32]] = {}
    for inner in range(INNER):
        part = [each for each in samples if fold_of(each.page, INNER, "inner") != inner]
        model = fit(part, [each.features for each in part], _FIRST)
        for each in samples:
            if fold_of(each.page, INNER, "inner") == inner:
                seen[id(each)] = predict(model, each.features)
    first = fit(samples, [each.features for each in samples], _FIRST)
    return first, fit(samples, [each.second(seen[id(each)]) for each in samples], _SECOND)


def save(path: Path, models: Iterable[tuple[str, Forest]]) -> None:
    """Write forests as one file."""
    np.savez_compressed(
        path, **{f"{name}_{field}": getattr(model, field) for name, model in models for field in model._fields}
    )


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", type=Path, required=True)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folds", type=Path, help="directory for the weights of each fold")
    parser.add_argument("--cache", type=Path, help="keep what was measured, for another run")
    options = parser.parse_args()
    if options.cache and options.cache.exists():
        samples = pickle.loads(options.cache.read_bytes())
    else:
        samples = [each for each in map(sample, [*articles(options.articles), *phrases(options.pages)]) if each]
        if options.cache:
            options.cache.write_bytes(pickle.dumps(samples))
    if options.folds:
        chances = {}
        for fold in range(FOLDS):
            first, second = train([each for each in samples if fold_of(each.page, FOLDS) != fold])
            save(options.folds / f"weights-without-fold-{fold}.npz", (("first", first), ("second", second)))
            for each in samples:
                if fold_of(each.page, FOLDS) == fold:
                    chances[each.page.name] = predict(second, each.second(predict(first, each.features)))
        for threshold in (0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
            texts = {
                each.page.name: " ".join(np.array(each.texts, dtype=object)[chances[each.page.name] > threshold])
                for each in samples
            }
            whole = [each.page for each in samples if each.page.article is not None]
            other = [each.page for each in samples if each.page.article is None]
            for name, (f1, precision, recall) in (
                ("articles", article_scores([article_counts(page, texts[page.name]) for page in whole])),
                ("phrases", phrase_scores([phrase_counts(page, texts[page.name]) for page in other])),
            ):
                print(f"{threshold} {name} F1 {f1:.4f} precision {precision:.4f} recall {recall:.4f}", flush=True)
    if options.out:
        save(options.out, zip(("first", "second"), train(samples), strict=True))


if __name__ == "__main__":
    main()
